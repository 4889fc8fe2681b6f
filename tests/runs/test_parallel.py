"""Tasks side by side: messages up, a stop signal down, and no child left behind."""

import os
import signal
import time
from pathlib import Path

import pytest

from repro.runs import parallel
from repro.runs.parallel import Channel, run_all
from repro.signals import Interrupted


class Record:
    """Keeps what it is told. It sends this process a signal at the first message, if one is given."""

    def __init__(self, signum: int = 0, times: int = 1) -> None:
        self.messages: dict[int, list[str]] = {}
        self.ends: dict[int, tuple[int | None, bool]] = {}
        self.signum, self.times = signum, times

    def message(self, task: int, message: str) -> None:
        self.messages.setdefault(task, []).append(message)
        for _ in range(self.times if self.signum else 0):
            os.kill(os.getpid(), self.signum)
        self.signum = 0

    def ended(self, task: int, exit_code: int | None, stopped: bool) -> None:
        assert task not in self.ends, "a task ends once"
        self.ends[task] = (exit_code, stopped)


def count(task: int, channel: Channel[str]) -> None:
    for number in range(task):
        channel.send(str(number))


def die(task: int, channel: Channel[str]) -> None:
    channel.send("alive")
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if task == 2:
        raise SystemExit(3)


def work(task: int, channel: Channel[str]) -> None:
    """Work until told to stop."""
    channel.send("alive")
    try:
        while True:
            channel.check_stop()
            time.sleep(0.02)
    except Interrupted as stop:
        channel.send(f"stopped by {stop}")
        raise


def hang(_: int, channel: Channel[str]) -> None:
    """Work without ever looking at the channel."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    channel.send(str(os.getpid()))
    time.sleep(600)


def test_messages_arrive_in_order_and_every_task_ends_once() -> None:
    record = Record()
    assert run_all(count, [3, 0, 1], 2, record.ended, record.message) == 0
    assert record.messages == {3: ["0", "1", "2"], 1: ["0"]}
    assert record.ends == {3: (0, False), 0: (0, False), 1: (0, False)}


def test_a_child_that_dies_stops_no_other() -> None:
    record = Record()
    assert run_all(die, [0, 1, 2], 3, record.ended, record.message) == 0
    assert record.messages == {task: ["alive"] for task in (0, 1, 2)}
    assert record.ends == {0: (0, False), 1: (-signal.SIGKILL, False), 2: (3, False)}


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_passed_on_and_no_further_child_is_started(signum: signal.Signals, code: int) -> None:
    record = Record(signum)
    assert run_all(work, [1, 2], 1, record.ended, record.message) == code
    assert record.messages == {1: ["alive", f"stopped by {signum.name}"]}
    assert record.ends == {2: (None, True), 1: (code, True)}


def test_a_second_signal_ends_children_that_do_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PATIENCE", 20.0)
    record = Record(signal.SIGTERM, times=2)
    began = time.monotonic()
    assert run_all(hang, [1], 1, record.ended, record.message) == 143
    assert time.monotonic() - began < 15
    assert record.ends == {1: (-signal.SIGTERM, True)}
    assert not Path(f"/proc/{record.messages[1][0]}").exists()
