"""Measure this project's step and its peers by turns on the same cores, round by round.

A machine's speed changes from minute to minute; the ratio of two turns that follow each other changes less.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from repro.benchmarks.peer_process import Answer, PeerError, PeerProcess, versions
from repro.benchmarks.peers.workload import Adam, Layer, Request, Workload

from repro import registry, spec
from repro.errors import ReproError
from repro.model.layers import sizes

ENGINE, FLOOR, ONE_THREAD = "engine", "floor", "engine on one thread"
PLAIN, COMPILED = "plain", "compiled"
OURS = (PLAIN, COMPILED)  # other ways to compute this project's own step
PEERS = ("plain_pytorch", "keras_tf", "jax_step")
ELSEWHERE = ("keras_tf", "jax_step")  # may be installed for another Python
REMEDY = "pip install '.[bench]', or name a Python that has it with --peer-python"
Faults = dict[str, PeerError]


@dataclass(frozen=True)
class Options:
    """How to measure. A turn takes about `turn_seconds`; with 0 it is two steps."""

    rounds: int = 7
    turn_seconds: float = 0.7
    warmup: int = 30
    precision: Literal["float32", "mixed"] = "float32"
    peer_python: Path | None = None

    def python(self, peer: str) -> str:
        return str(self.peer_python.absolute()) if self.peer_python and peer in ELSEWHERE else sys.executable


QUICK = Options(rounds=2, turn_seconds=0.0, warmup=1)


@dataclass
class Turns:
    """One program's turns, in the order of the rounds."""

    name: str
    process: PeerProcess | None
    fault: PeerError | None = None
    steps: int = 2
    answers: list[Answer] = field(default_factory=list)

    def take(self) -> Answer | None:
        """Take a turn; None if the program cannot. Raises ReproError if this project's own step fails."""
        if self.fault or not self.process:
            return None
        try:
            return self.process.ask(str(self.steps))
        except PeerError as fault:
            if self.name not in (*PEERS, COMPILED):
                raise ReproError(f"bench: the project's own step failed: {fault}") from None
            self.fault = fault
            return None

    def warm(self, seconds: float) -> None:
        """Take a first turn, and find how many steps take so many seconds."""
        answer = self.take()
        if answer and seconds:
            self.steps = max(2, round(seconds / answer["seconds"] * answer["steps"]))

    def each(self, key: str) -> NDArray[np.float64]:
        """Return a number of each answer. [rounds]."""
        return np.array([answer[key] for answer in self.answers], dtype=np.float64)

    @property
    def times(self) -> NDArray[np.float64]:
        return self.each("seconds") / self.each("steps")


def available(options: Options, note: Callable[[str], None]) -> Faults:
    """Import what each peer needs and report it with `note`; return the peers that cannot run, with the reason."""
    faults: Faults = {}
    for peer in PEERS:
        try:
            found = versions(peer, options.python(peer))
            note(f"{peer}: {', '.join(map(' '.join, found.items()))} ({options.python(peer)})")
        except PeerError as fault:
            remedy = f"; {REMEDY}" if fault.status == "not installed" else ""
            faults[peer] = PeerError(fault.status, f"{fault}{remedy}")
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        faults[COMPILED] = PeerError("not installed", f"not installed: torch.compile needs a C++ compiler, {compiler}")
    for name, reason in faults.items():
        note(f"{name}: cannot run: {reason}")
    return faults


def measure(request: Request, options: Options, faults: Faults, note: Callable[[str], None]) -> dict[str, Turns]:
    """Measure this project's step and its peers by turns. Raises ReproError if this project's own step fails."""
    found: dict[str, Turns] = {}
    with ExitStack() as stack:
        for each in _started(request, options, faults, stack):  # in sequence, so that each warms up undisturbed
            each.warm(options.turn_seconds)
            found[each.name] = each
        names = ", ".join(name for name, each in found.items() if not each.fault)
        note(f"{request.workload.experiment}, threads {request.threads}: {options.rounds} rounds of {names}")
        for _ in range(options.rounds):
            for each in found.values():
                answer = each.take()
                if answer:
                    each.answers.append(answer)
    return found


def _started(request: Request, options: Options, faults: Faults, stack: ExitStack) -> Iterator[Turns]:
    def start(name: str, **changes: Any) -> PeerProcess:
        process = PeerProcess(name, options.python(name), replace(request, **changes))
        return stack.enter_context(closing(process))

    yield Turns(ENGINE, start("ours"))
    yield Turns(FLOOR, start("floor"))
    if request.threads > 1:
        yield Turns(ONE_THREAD, start("ours", threads=1))
    yield Turns(PLAIN, start("ours", engine="plain"))
    for name in (COMPILED, *PEERS):
        if name in faults:
            yield Turns(name, None, fault=faults[name])
        elif name == COMPILED:
            yield Turns(name, start("ours", engine="compiled"))
        else:
            yield Turns(name, start(name))


def workload_of(name: str) -> Workload:
    experiment = registry.get(name).spec
    data, model, training = experiment.data, experiment.model, experiment.training
    facts = spec.DATASETS[data.name]
    encoder = _layers(model.encoder, data.shape, model.activation)
    head = Layer("dense", encoder[-1].gives, (model.latent,))
    *body, output = _layers(model.decoder, model.latent, model.activation)
    return Workload(
        experiment=name,
        encoder=encoder,
        head=head,
        decoder=(*body, replace(output, activation="identity")),
        image=_size(data.shape),
        images=facts.train_images - data.holdout,
        shuffle=data.shuffle,
        batch_size=training.batch_size,
        adam=Adam(**asdict(experiment.optim)),
    )


def _layers(layers: Sequence[spec.Layer], start: spec.Shape | int, activation: str) -> tuple[Layer, ...]:
    given = sizes(layers, start, "layers")
    return tuple(
        Layer(
            layer.kind,
            _size(takes),
            _size(gives),
            getattr(layer, "activation", "identity") or activation,
            kernel=layer.size if isinstance(layer, spec.MeanPool) else getattr(layer, "kernel", 0),
            stride=getattr(layer, "stride", 1),
        )
        for layer, takes, gives in zip(layers, [start, *given], given, strict=False)
    )


def _size(size: spec.Shape | int) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else (size.height, size.width, size.channels)
