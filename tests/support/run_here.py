"""Tasks in this process, in place of a child process for each."""

import pickle
from typing import Any

from repro.runs.parallel import Channel


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
