"""The project's step and its peers in one run: they take turns on the same cores, and each round is compared in itself.

A machine's speed wanders from minute to minute; the ratio of two turns that follow each other wanders less.
"""

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.benchmarks.contestant import Answer, Contestant, PeerError

from repro.errors import ReproError

ENGINE, FLOOR, ONE_THREAD = "engine", "floor", "engine on one thread"
PEERS = ("plain_pytorch", "keras_tf", "jax_step")
ELSEWHERE = ("keras_tf", "jax_step")  # may be installed for another Python


@dataclass(frozen=True)
class Options:
    """How to measure. `turn_seconds` is about how long a turn takes; with 0 it is a step or two."""

    rounds: int = 7
    turn_seconds: float = 0.7
    warmup: int = 30
    precision: str = "float32"
    peer_python: Path | None = None


QUICK = Options(rounds=2, turn_seconds=0.0, warmup=1)


@dataclass
class Turns:
    """One contestant's turns, in the order of the rounds; `word` says what it is to do, if not to train."""

    name: str
    contestant: Contestant
    word: str = ""
    steps: int = 2
    answers: list[Answer] = field(default_factory=list)
    fault: PeerError | None = None

    def take(self) -> Answer | None:
        """Take a turn, if it can still do so. Raises ReproError if the project's own step cannot."""
        if self.fault:
            return None
        try:
            return self.contestant.ask(f"{self.word}{self.steps}")
        except PeerError as fault:
            if self.name not in PEERS:
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
        """What it said last."""
        return self.answers[-1].values


def measure(setup: str, threads: int, options: Options, note: Callable[[str], None]) -> dict[str, Turns]:
    """Let all take turns for some rounds. Raises ReproError if the project's own step fails."""
    found: dict[str, Turns] = {}
    with ExitStack() as stack:
        for each in _contestants(setup, threads, options, stack):  # one by one, so that each warms up undisturbed
            each.warm(options.turn_seconds)
            found[each.name] = each
        names = ", ".join(name for name, each in found.items() if not each.fault)
        note(f"{setup}, threads {threads}: {options.rounds} rounds of {names}")
        for _ in range(options.rounds):
            for each in found.values():
                answer = each.take()
                if answer:
                    each.answers.append(answer)
    return found


def _contestants(setup: str, threads: int, options: Options, stack: ExitStack) -> Iterator[Turns]:
    def start(peer: str, cores: int, *arguments: str) -> Contestant:
        python = str(options.peer_python) if options.peer_python and peer in ELSEWHERE else sys.executable
        line = [setup, "--threads", str(cores), "--warmup", str(options.warmup), *arguments]
        return stack.enter_context(closing(Contestant(f"repro.benchmarks.peers.{peer}", line, python)))

    engine = start(ENGINE, threads, "--precision", options.precision)
    yield Turns(ENGINE, engine)
    yield Turns(FLOOR, engine, word="floor ")
    if threads > 1:
        yield Turns(ONE_THREAD, start(ENGINE, 1, "--precision", options.precision))
    for peer in PEERS:
        yield Turns(peer, start(peer, threads))


def paired(times: Sequence[float], others: Sequence[float]) -> list[float]:
    """Of each round, the first time over the second."""
    return [time / other for time, other in zip(times, others, strict=True)]


def middle(values: Sequence[float]) -> float:
    """The median."""
    return float(statistics.median(values))
