"""What the peers share: arguments, threads, images, timing, and one line of JSON for each measurement.

    python -m repro.benchmarks.peers.keras_tf mnist_fc --threads 1 --steps 200 --warmup 50

With `--serve` a peer warms up, then reads numbers of steps from standard input, a line each, and answers each with a
line of JSON, until end of file: so a driver can take turns between programs that stay warm. A peer that can do its
matrix products alone does so for a line like `floor 200`.
"""

import argparse
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from repro import registry
from repro.spec import DATASETS, Experiment

Pixels = npt.NDArray[np.uint8]
SETUPS = ("mnist_fc", "mnist_conv", "cifar_conv")
WEIGHT_STD = 0.01  # of the normal, before it is cut at two of these
NOT_INSTALLED = 3
T = TypeVar("T")


class Peer(Protocol):
    """A network in training."""

    parameters: int

    def run(self, steps: int) -> list[float]:
        """Train for so many steps; return each step's cost, nats per image, when all are done."""


@runtime_checkable
class WithFloor(Protocol):
    """A peer that can do the matrix products of its steps and nothing else; `facts` says how it computes."""

    facts: dict[str, str]

    def floor(self, steps: int) -> None:
        """Do the products of so many steps."""


@dataclass(frozen=True)
class Request:
    """What is to be trained, on which images, [N, H, W, C] in file order, with how many threads.

    `options` holds what a peer's own options say.
    """

    experiment: Experiment
    images: Pixels
    threads: int
    seed: int
    options: argparse.Namespace

    def pixels(self) -> npt.NDArray[np.float32]:
        """All images as numbers in [0, 1]. -> float32 [N, H, W, C]."""
        return np.divide(self.images, 255, dtype=np.float32)

    def indices(self) -> Iterator[npt.NDArray[np.int32]]:
        """Which images each step takes, epoch after epoch, without end. -> int32 [B] each."""
        training, shuffle = self.experiment.training, self.experiment.data.shuffle
        return _indices(len(self.images), training.batch_size, shuffle, self.seed)


def main(
    name: str,
    make: Callable[[Request], Peer],
    versions: dict[str, str],
    add_options: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> None:
    """Do what the command line asks of the peer called `name`. `make` is called once the threads are limited."""
    parser = _parser(name)
    add_options(parser)
    arguments = parser.parse_args()
    limit_threads(arguments.threads, parser)
    experiment = registry.get(arguments.setup).spec
    facts = {"peer": name, "setup": arguments.setup, "threads": arguments.threads, "versions": versions}
    images = _images(arguments, experiment, parser)
    peer = make(Request(experiment, images, arguments.threads, arguments.seed, arguments))
    try:
        warm = peer.run(arguments.warmup) if arguments.warmup else []
        if arguments.serve:
            _serve(peer, facts)
        else:
            _answer(facts | _once(peer, experiment, arguments, warm))
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)


def limit_threads(threads: int, parser: argparse.ArgumentParser) -> None:
    """Allow this process so many cores, which thread pools created from here on cannot leave.

    Where the system cannot do that, the libraries' own settings must do.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        parser.error(f"--threads {threads}: this process may use {len(cores)}")
    for thread in Path("/proc/self/task").iterdir():  # an import may have started some already
        os.sched_setaffinity(int(thread.name), cores[:threads])


def not_installed(library: str) -> NoReturn:
    """End the program, saying how to get the library."""
    print(f"{library} is not installed: pip install .[bench]", file=sys.stderr)
    sys.exit(NOT_INSTALLED)


def _indices(images: int, batch: int, shuffle: bool, seed: int) -> Iterator[npt.NDArray[np.int32]]:
    generator, order = np.random.default_rng(seed), np.arange(images, dtype=np.int32)
    while True:
        if shuffle:
            generator.shuffle(order)
        for first in range(0, images - batch + 1, batch):
            yield order[first : first + batch].copy()


def steps_per_epoch(experiment: Experiment) -> int:
    """How many steps an epoch of the real data set has."""
    data = experiment.data
    return (DATASETS[data.name].train_images - data.holdout) // experiment.training.batch_size


def synthetic(experiment: Experiment, seed: int) -> Pixels:
    """A soft spot of random place, size and colour on black, for each image of the real set. -> [N, H, W, C]."""
    channels, height, width = experiment.data.shape
    count = DATASETS[experiment.data.name].train_images - experiment.data.holdout
    generator = np.random.default_rng(seed)
    size = generator.uniform(0.08, 0.2, (count, 1))
    rows, columns = (
        np.exp(-(((np.arange(length) / length - generator.uniform(0.2, 0.8, (count, 1))) / size) ** 2)).astype("f4")
        for length in (height, width)
    )
    colours = generator.uniform(128, 255, (count, channels)).astype("f4")
    images = np.empty((count, height, width, channels), np.uint8)
    for first in range(0, count, 1000):  # in pieces, for the memory
        part = slice(first, first + 1000)
        images[part] = np.einsum("nh,nw,nc->nhwc", rows[part], columns[part], colours[part])
    return images


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m repro.benchmarks.peers.{name}")
    parser.add_argument("setup", choices=SETUPS)
    parser.add_argument("--threads", type=_count, default=1)
    parser.add_argument("--steps", type=_count, default=200, help="steps to time (default: 200)")
    parser.add_argument("--warmup", type=_count_or_none, default=50, help="steps before those (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of images, order, weights and noise (default: 0)")
    parser.add_argument("--images", type=Path, help=".npy file, uint8 [N, H, W, C] (default: synthetic images)")
    parser.add_argument("--costs", action="store_true", help="give the cost of every step, warm-up included")
    parser.add_argument("--serve", action="store_true", help="after the warm-up, run as many steps as each line says")
    return parser


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text.strip()!r} is not a whole number from 1")
    return int(text)


def _images(arguments: argparse.Namespace, experiment: Experiment, parser: argparse.ArgumentParser) -> Pixels:
    if arguments.images is None:
        return synthetic(experiment, arguments.seed)
    try:
        images: Pixels = np.load(arguments.images, allow_pickle=False)
    except (OSError, ValueError) as error:
        parser.error(f"--images {arguments.images}: {error}")
    channels, height, width = experiment.data.shape
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels):
        wanted = f"uint8 [N, {height}, {width}, {channels}]"
        parser.error(f"--images {arguments.images}: holds {images.dtype} {list(images.shape)}, needs {wanted}")
    if len(images) < experiment.training.batch_size:
        parser.error(f"--images {arguments.images}: holds {len(images)}, a step needs {experiment.training.batch_size}")
    return images


def _timed(work: Callable[[int], T], steps: int) -> tuple[dict[str, float], T]:
    """Do steps. -> steps, wall seconds and processor seconds (the two show how many threads worked), and the result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work(steps)
    taken = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}
    return {"steps": steps} | taken, result


def _once(peer: Peer, experiment: Experiment, arguments: argparse.Namespace, warm: list[float]) -> dict[str, Any]:
    taken, timed = _timed(peer.run, arguments.steps)
    costs = warm + timed
    return {
        **taken,
        "seconds_per_epoch": taken["seconds"] / arguments.steps * steps_per_epoch(experiment),
        "first_cost": costs[0],
        "last_cost": costs[-1],
        "parameters": peer.parameters,
        "peak_rss_mib": peak_memory(),
    } | ({"costs": costs} if arguments.costs else {})


def _serve(peer: Peer, facts: dict[str, Any]) -> None:
    floor = peer if isinstance(peer, WithFloor) else None
    facts = facts | (floor.facts if floor else {})
    for line in sys.stdin:
        alone = line.startswith("floor ") and floor is not None
        try:
            steps = _count(line.removeprefix("floor ") if alone else line)
        except argparse.ArgumentTypeError as error:
            print(f"--serve: {error}", file=sys.stderr)
            sys.exit(2)
        if alone and floor:
            _answer(facts | _timed(floor.floor, steps)[0])
        else:
            taken, costs = _timed(peer.run, steps)
            _answer(facts | taken | {"cost": math.fsum(costs) / steps, "peak_rss_mib": peak_memory()})


def peak_memory() -> float:
    """The largest resident set this process has had, MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had when it forked
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def _answer(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)
