"""Run one peer: check that it can be imported, or train as many steps as standard input asks for.

    PYTHON path/to/peers/serve.py keras_tf --check
    PYTHON path/to/peers/serve.py keras_tf < requests

The first line of standard input is a `workload.Request` as JSON. Each later line is a number of steps to train, or
`floor N` for only the matrix products of N steps, if the peer has them. The answer to each is a line of JSON. The
process ends with its input, and stays warm until then.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import workload as workloads  # type: ignore[import-not-found]  # this folder is on the path of a program that is run from it

if TYPE_CHECKING:
    from repro.benchmarks.peers.images import Pixels
    from repro.benchmarks.peers.workload import Request

NOT_INSTALLED = 3
T = TypeVar("T")


class Peer(Protocol):
    """The class `Peer` of a peer's module, which also has `VERSIONS`. `facts` says how it computes.

    A peer may have a method `floor(steps)` that computes only the matrix products.
    """

    parameters: int
    facts: dict[str, str]

    def __init__(self, request: Request, images: Pixels) -> None: ...

    def run(self, steps: int) -> list[float]:
        """Train; return each step's cost, nats per image, after the last step."""


def main(name: str, check: bool) -> None:
    request = None if check else workloads.from_json(sys.stdin.readline())
    if request:
        limit_cores(request.threads)  # before the import, as a framework sizes its thread pools by what it finds
    try:
        images, module = (importlib.import_module(each) for each in ("images", name))
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_INSTALLED)
    if request is None:
        answer({"versions": module.VERSIONS})
        return
    peer: Peer = module.Peer(request, images.synthetic(request.workload, request.seed))
    if request.warmup:
        peer.run(request.warmup)
    serve(peer, {"versions": module.VERSIONS, "parameters": peer.parameters} | peer.facts)


def limit_cores(threads: int) -> None:
    """Restrict this process to as many cores, on systems that can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def serve(peer: Peer, facts: dict[str, Any]) -> None:
    for line in sys.stdin:
        *floor, steps = line.split()
        if floor:
            answer(facts | timed(getattr(peer, *floor), int(steps))[0])
        else:
            taken, costs = timed(peer.run, int(steps))
            answer(facts | taken | {"cost": math.fsum(costs) / len(costs), "peak_rss_mib": peak_memory()})


def timed(work: Callable[[int], T], steps: int) -> tuple[dict[str, float], T]:
    """Compute steps; return their number with wall and processor seconds, and the result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work(steps)
    taken = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}
    return {"steps": steps} | taken, result


def peak_memory() -> float:
    """Return the largest resident set that this process has had, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had when it forked
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def answer(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], check="--check" in sys.argv[2:])
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
