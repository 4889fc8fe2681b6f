"""Let this project's step and its peers take turns on the same cores, round by round.

A machine's speed wanders from minute to minute; the ratio of two turns that follow each other wanders less.
"""

import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from repro.benchmarks.peer_process import Answer, PeerError, PeerProcess, versions
from repro.benchmarks.peers.plan import Adam, Layer, Plan, Request

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
    """How to measure. `turn_seconds` is about how long a turn takes; with 0 it is two steps."""

    rounds: int = 7
    turn_seconds: float = 0.7
    warmup: int = 30
    precision: Literal["float32", "mixed"] = "float32"
    peer_python: Path | None = None

    def python(self, peer: str) -> str:
        """Return the Python that runs a peer."""
        return str(self.peer_python) if self.peer_python and peer in ELSEWHERE else sys.executable


QUICK = Options(rounds=2, turn_seconds=0.0, warmup=1)


@dataclass
class Turns:
    """One program's turns, in the order of the rounds; `word` says what it is to do, if not to train."""

    name: str
    process: PeerProcess | None
    word: str = ""
    fault: PeerError | None = None
    steps: int = 2
    answers: list[Answer] = field(default_factory=list)

    def take(self) -> Answer | None:
        """Take a turn; None if it cannot. Raises ReproError if this project's own step fails."""
        if self.fault or not self.process:
            return None
        try:
            return self.process.ask(f"{self.word}{self.steps}")
        except PeerError as fault:
            if self.name not in (*PEERS, COMPILED):
                raise ReproError(f"bench: the project's own step failed: {fault}") from None
            self.fault = fault
            return None

    def warm(self, seconds: float) -> None:
        """Wait until it is warm, and find out how many steps make a turn."""
        answer = self.take()
        if answer and seconds:
            self.steps = max(2, round(seconds / answer.step_seconds))

    @property
    def times(self) -> list[float]:
        """Seconds for a step, by round."""
        return [answer.step_seconds for answer in self.answers]

    @property
    def last(self) -> dict[str, Any]:
        """The last answer's values."""
        return self.answers[-1].values


def available(options: Options, note: Callable[[str], None]) -> Faults:
    """Say which peers can run, by importing what they need; return those that cannot, with the reason."""
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
    """Let all take turns for some rounds. Raises ReproError if this project's own step fails."""
    found: dict[str, Turns] = {}
    with ExitStack() as stack:
        for each in _started(request, options, faults, stack):  # one by one, so that each warms up undisturbed
            each.warm(options.turn_seconds)
            found[each.name] = each
        names = ", ".join(name for name, each in found.items() if not each.fault)
        note(f"{request.plan.experiment}, threads {request.threads}: {options.rounds} rounds of {names}")
        for _ in range(options.rounds):
            for each in found.values():
                answer = each.take()
                if answer:
                    each.answers.append(answer)
    return found


def _started(request: Request, options: Options, faults: Faults, stack: ExitStack) -> Iterator[Turns]:
    def start(name: str, request: Request) -> PeerProcess:
        process = stack.enter_context(closing(PeerProcess(name, options.python(name))))
        process.prepare(request)
        return process

    engine = start("ours", request)
    yield Turns(ENGINE, engine)
    yield Turns(FLOOR, engine, word="floor ")
    if request.threads > 1:
        yield Turns(ONE_THREAD, start("ours", replace(request, threads=1)))
    yield Turns(PLAIN, start("ours", replace(request, engine="plain")))
    for name in (COMPILED, *PEERS):
        if name in faults:
            yield Turns(name, None, fault=faults[name])
        elif name == COMPILED:
            yield Turns(name, start("ours", replace(request, engine="compiled")))
        else:
            yield Turns(name, start(name, request))


def plan_of(name: str) -> Plan:
    """Return what the peers are told about a registered experiment."""
    experiment = registry.get(name).spec
    data, model, training = experiment.data, experiment.model, experiment.training
    facts = spec.DATASETS[data.name]
    encoder = _layers(model.encoder, data.shape, model.activation)
    head = Layer("dense", encoder[-1].gives, (model.latent,))
    *body, output = _layers(model.decoder, model.latent, model.activation)
    return Plan(
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


def paired(times: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return each round's first time over its second."""
    return [time / other for time, other in zip(times, others, strict=True)]


def middle(values: Sequence[float]) -> float:
    """Return the median."""
    return float(statistics.median(values))
