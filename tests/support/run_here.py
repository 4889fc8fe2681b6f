"""Tasks in this process, in place of a child process for each; and what happens to them in an epoch."""

import itertools
import os
import pickle
import signal
from collections.abc import Callable
from typing import Any

import pytest

from repro.runs.parallel import Channel
from repro.training.trainer import Trainer


class Wire(Channel[Any]):
    """A channel that keeps each message as it would go through a pipe."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, message: Any) -> None:
        self.sent.append(pickle.dumps(message))

    def check_stop(self) -> None:
        pass


def run_all_here(function: Any, tasks: list[Any], _at_once: int, on_end: Any, on_message: Any) -> int:
    """Do what `run_all` does, one task after the other in this process."""
    for task in tasks:
        wire = Wire()
        function(task, wire)
        for message in wire.sent:
            on_message(task, pickle.loads(message))
        on_end(task, 0, False)
    return 0


def in_epoch(monkeypatch: pytest.MonkeyPatch, count: int, act: Callable[[], Any]) -> None:
    """Do that once, after so many epochs have been trained in all."""
    epoch, trained = Trainer.epoch, itertools.count(1)

    def watched(self: Trainer, after_step: Callable[[], None]) -> dict[str, float]:
        row = epoch(self, after_step)
        if next(trained) == count:
            act()
        return row

    monkeypatch.setattr(Trainer, "epoch", watched)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
