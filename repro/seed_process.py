"""One of several seeds, in a process of its own, which tells the process that started it how it goes.

The two talk by a pipe of their own: up goes what a Reporter is told, down comes the number of a signal. If either is
killed, the other reads the pipe's end; a queue for all would stay locked if a process were killed while writing to it.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from repro import folder, prepare, runner
from repro.errors import ReproError
from repro.registry import Entry
from repro.request import Request
from repro.signals import Interrupted, interruptible
from repro.spec import Experiment

STOPS = (signal.SIGINT, signal.SIGTERM)
PAUSE = 0.25  # seconds between two looks at the pipe, and between two reports of steps


@dataclass(frozen=True)
class Job:
    """What a process is asked to train."""

    entry: Entry
    spec: Experiment
    device: str
    threads: int
    asked: dict[str, Any]  # what only the command line knows, as `runner.begin` takes it
    seed: int
    run_id: str  # of the run to go on with; "" for a new one


def train(job: Job, line: Connection) -> None:
    """Train a seed; the process is started with STOPS blocked.

    Sends tuples: the name of a Reporter's method and its arguments, in the end ("end", Summary), or
    ("lost", status, error) where it does not come to a summary.
    """
    silence = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    sys.stdout = sys.stderr = silence  # there is one display for all, the other process's
    with interruptible() as check:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        reporter = _Upwards(line, check)
        try:
            reporter.heed()
            request = _request(job)
            reporter.heed()
            run_id = job.run_id or runner.begin(request, **job.asked)
            reporter.post("end", runner.run(run_id, request, reporter))
        except Interrupted as stop:
            reporter.post("lost", "KILLED", f"interrupted by {stop}")
        except (ReproError, OSError) as error:
            reporter.post("lost", "FAILED", str(error))
        except Exception as error:
            alone = f"alone, with --seed {job.seed}, it says more"
            reporter.post("lost", "FAILED", f"unexpected {type(error).__name__}: {error}; {alone}")


def _request(job: Job) -> Request:
    named = job.asked["data_dir"]
    data_dir = Path(named) if named else None
    if job.run_id:
        return prepare.recorded(folder.load(job.run_id), data_dir)
    dataset = prepare.load_data(job.spec, job.asked["data"], data_dir)
    return Request(job.entry, job.spec, dataset, job.seed, prepare.pick_device(job.device), job.threads)


class _Upwards:
    """A Reporter at the lower end of the pipe. It raises Interrupted in a step when the run is to stop."""

    def __init__(self, line: Connection, check_signals: Callable[[], None]) -> None:
        self.line, self._check_signals = line, check_signals
        self._steps, self._next = 0, 0.0

    def started(self, run_id: str, steps: int, done: int) -> None:
        self.post("started", run_id, steps, done)

    def tell(self, text: str) -> None:
        self.post("tell", text)

    def step(self) -> None:
        self._steps += 1
        if time.monotonic() >= self._next:
            self._report_steps()
            self.heed()
            self._next = time.monotonic() + PAUSE

    def epoch(self, number: int, row: dict[str, float]) -> None:
        self._report_steps()
        self.post("epoch", number, row)
        self.heed()

    def heed(self) -> None:
        """Raise Interrupted if a signal came, here or to the other process, or if that is gone."""
        self._check_signals()
        try:
            signum = self.line.recv() if self.line.poll() else None
        except (EOFError, OSError):
            signum = signal.SIGTERM
        if signum is not None:
            raise Interrupted(signum)

    def post(self, *message: Any) -> None:
        """Send a message. If nobody is there any more, `heed` will notice."""
        try:
            self.line.send(message)
        except OSError:
            return

    def _report_steps(self) -> None:
        self.post("step", self._steps)
        self._steps = 0
