"""Workers: each takes one trial after the other until none is left; several are processes side by side."""

import os
import signal
import socket
import sys
import time
import uuid
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess

from optuna.trial import Trial, TrialState

from repro.data import Dataset
from repro.errors import ReproError
from repro.runs.config import RunConfig
from repro.signals import Interrupted, interruptible
from repro.spec import Data, Space
from repro.sweep import space as spaces
from repro.sweep.storage import Storage
from repro.sweep.study import REASON, SECONDS, LostError, Study
from repro.sweep.trial import STATES, Bench, work
from repro.terminal import duration, say

STOPS = {signal.SIGINT, signal.SIGTERM}
IN_A_ROW = 3  # failed trials after which a worker gives up
PAUSE = 1.0  # seconds between two looks for a trial to take up


@dataclass(frozen=True)
class How:
    """Which study, where it is kept, and how to compute."""

    study: str
    url: str  # of the store of studies; "" for the one beside the tracking store
    heartbeat: int  # seconds
    jobs: int  # processes side by side
    config: RunConfig  # of the experiment itself; its threads are those of one process

    def found(self, dataset: Dataset) -> "How":
        """The same for workers, who need not search for data where there is only a stand-in."""
        stand_in = dataset.status == "stand-in"
        return replace(self, config=replace(self.config, data="stand-in")) if stand_in else self


@dataclass(frozen=True)
class Order:
    """What a worker is asked to do."""

    how: How
    assignments: tuple[str, ...]  # what holds for every trial
    space: Space
    until: float | None  # time.time() after which no trial is begun


def run(order: Order, loaded: dict[Data, Dataset]) -> int:
    """Work until no trial is left; the exit code of the worst process. `loaded` is what this one has of the data."""
    return serve(order, loaded) if order.how.jobs == 1 else _side_by_side(order)


def serve(order: Order, loaded: dict[Data, Dataset]) -> int:
    """Work in this process until no trial is left, here or with other workers; the exit code.

    Raises StorageError and StoreError where a store is away for long.
    """
    how = order.how
    study = Study(Storage(how.url, how.heartbeat), how.study)
    owner = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex[:8]}"
    bench = Bench(how.config, order.assignments, order.space, owner, say, loaded)
    failed, told = 0, False
    try:
        with interruptible() as check:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            while order.until is None or time.time() < order.until:
                check()
                trial = study.storage.patiently(lambda: study.claim(owner, order.space))
                if trial is None:
                    others = study.trials(TrialState.RUNNING)
                    if not others:
                        break
                    if not told:
                        say(f"nothing left to begin; {_of_others(len(others))}, to be taken up if they go silent")
                    told = True
                    time.sleep(PAUSE)
                    continue
                failed = failed + 1 if _one(study, trial, bench) == TrialState.FAIL else 0
                if failed == IN_A_ROW:
                    say(f"{IN_A_ROW} trials in a row have failed; this worker stops", error=True)
                    return 1
    except Interrupted as stop:
        return stop.exit_code
    return 0


def _of_others(count: int) -> str:
    return "a trial of another worker is still running" if count == 1 else f"{count} of other workers are still running"


def _one(study: Study, trial: Trial, bench: Bench) -> TrialState | None:
    """Work on a trial, and say how it went."""
    say(f"trial {trial.number}: {spaces.shown(trial.params)}")
    try:
        state = work(study, trial, bench)
    except LostError as lost:
        say(f"note: {lost}", error=True)
        return None
    done = study.trials()[trial.number]
    reason = f": {done.user_attrs[REASON]}" if REASON in done.user_attrs else ""
    value = f", held-out {done.value:.4f} nats" if state == TrialState.COMPLETE and done.value is not None else ""
    best = study.best()
    beside = f"; best {best[0].value:.4f}, trial {best[0].number}" if best else ""
    say(f"trial {trial.number}: {STATES[state]}{value} in {duration(done.user_attrs[SECONDS])}{reason}{beside}")
    return state


def _side_by_side(order: Order) -> int:
    """Processes, each in a group of its own, so that a signal reaches each of them once, and by this one."""
    context = get_context("spawn")
    processes: list[BaseProcess] = [
        context.Process(target=_process, args=(order,), name=f"worker {number}") for number in range(order.how.jobs)
    ]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # inherited: none can hit one before it is ready
    try:
        for process in processes:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    passed = 0
    with interruptible() as check:
        while any(process.is_alive() for process in processes):
            try:
                connection.wait([each.sentinel for each in processes if each.is_alive()], timeout=PAUSE)
                if not passed:
                    check()
            except Interrupted as stop:  # the second time, at once
                signum = stop.exit_code - 128
                for process in processes:
                    if process.is_alive() and process.pid:
                        os.kill(process.pid, signum)
                passed = stop.exit_code
    codes = [process.exitcode or 0 for process in processes]
    for process, code in zip(processes, codes, strict=True):
        if code < 0:
            say(f"{process.name} was ended by signal {-code}; the others have gone on with its trial", error=True)
    return passed or max(min(abs(code), 1) if code < 0 else code for code in codes)


def _process(order: Order) -> None:
    """The whole of a worker's process."""
    os.setpgid(0, 0)
    try:
        sys.exit(serve(order, {}))
    except ReproError as error:
        say(*(f"error: {line}" for line in str(error).splitlines()), error=True)
        sys.exit(error.exit_code)
