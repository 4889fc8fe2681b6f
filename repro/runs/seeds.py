"""Several seeds of one experiment at a time: a process for each, one display, one parent run in the tracking store."""

import os
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repro import provenance
from repro.data import Dataset
from repro.errors import ReproError
from repro.names import Status
from repro.runs import progress, resume, run_dir, runner
from repro.runs.config import RunConfig
from repro.runs.parallel import POLL, Channel, run_all
from repro.runs.progress import SeedsDisplay
from repro.runs.result import UNFINISHED, DataSource, RunResult, not_comparable
from repro.signals import Interrupted
from repro.terminal import say
from repro.text import seed_list
from repro.tracking.group import Group, Setup


@dataclass(frozen=True)
class SeedsResult:
    """What the seeds came to, in their order. `exit_code` is 130 or 143 after an interrupt, 1 if a seed failed."""

    experiment: str
    parent_run_id: str | None  # None if the tracking store did not take the parent run
    runs: tuple[RunResult, ...]
    exit_code: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `--summary` writes."""
        runs = [run.to_json() for run in self.runs]
        return {"experiment": self.experiment, "parent_run_id": self.parent_run_id, "runs": runs}


def run(config: RunConfig, dataset: Dataset, seeds: Sequence[int], at_once: int) -> SeedsResult:
    """Train those of the seeds that have not finished before, `at_once` at a time.

    `config` is that of every seed but for the seed itself. A run that was cut off goes on, with the threads that it
    began with. Failures and interrupts are in the result.
    """
    config = replace(config, fingerprint=dataset.fingerprint)
    reasons = not_comparable(config.entry, config.spec, dataset, config.precision)
    progress.announce(config, dataset, f"seeds {seed_list(seeds)}, {at_once} at a time")
    earlier = resume.same_runs(config)
    work = _Seeds(config, dataset, seeds, {result.seed: result for result in _finished(earlier, seeds)})
    delivered = [_report_finished(result) for result in work.results.values()]
    left = [seed for seed in seeds if seed not in work.results]
    stopped = work.train([_Task(replace(config, seed=seed), earlier.get(seed, "")) for seed in left], at_once)
    runs = tuple(work.results[seed] for seed in seeds)
    status: Status = "FINISHED" if all(each.status == "FINISHED" for each in runs) else "FAILED"
    status = "KILLED" if stopped else status
    work.parent.close(status, work.finished())
    progress.conclude_seeds(runs, reasons)
    if status != "FINISHED":
        say(f"go on: {provenance.command()}")
    failed = not all(delivered) or any(each.exit_code for each in runs)
    return SeedsResult(config.entry.name, work.parent.run_id, runs, stopped or int(failed))


def finished(config: RunConfig, dataset: Dataset, seeds: Sequence[int]) -> list[RunResult]:
    """Return the results of those of the seeds that have finished before; nothing is trained."""
    return _finished(resume.same_runs(replace(config, fingerprint=dataset.fingerprint)), seeds)


def _finished(earlier: dict[int, str], seeds: Sequence[int]) -> list[RunResult]:
    found = [run_dir.load_result(earlier[seed]) for seed in seeds if seed in earlier]
    return [result for result in found if result is not None]


def _report_finished(result: RunResult) -> bool:
    """Print that a seed has finished before, and deliver what the store lacks of it; False if the store refuses."""
    say(f"seed {result.seed}: finished before, run {result.run_id[:8]}, cost {result.cost:.4f}")
    try:
        return runner.deliver(result.run_id, say)
    except run_dir.BusyError:
        return True


@dataclass(frozen=True)
class _Task:
    config: RunConfig
    run_id: str  # of the run to go on with; "" for a new one


@dataclass(frozen=True)
class _Started:
    run_id: str
    steps: int
    done: int


@dataclass(frozen=True)
class _Note:
    text: str


@dataclass(frozen=True)
class _Steps:
    count: int


@dataclass(frozen=True)
class _Epoch:
    number: int
    row: dict[str, float]


@dataclass(frozen=True)
class _NoResult:
    """The child ends without a result."""

    status: Status
    error: str


_Message = _Started | _Note | _Steps | _Epoch | _NoResult | RunResult


def _train_seed(task: _Task, channel: Channel[_Message]) -> None:
    """Train a seed in a child process, which prints nothing: the parent process has one display for all."""
    with Path(os.devnull).open("w", encoding="utf-8") as silence, redirect_stdout(silence), redirect_stderr(silence):
        try:
            channel.check_stop()
            if task.run_id:
                config, dataset = resume.recorded(task.run_id, task.config.data_dir)
            else:
                config, dataset = task.config, task.config.load_data()
            channel.check_stop()
            run_id = task.run_id or runner.begin(config, dataset)
            channel.send(runner.run(run_id, config, dataset, _ChannelReporter(channel)))
        except Interrupted as stop:
            channel.send(_NoResult("KILLED", f"interrupted by {stop}"))
        except (ReproError, OSError) as error:
            channel.send(_NoResult("FAILED", str(error)))
        except Exception as error:
            alone = f"alone, with --seed {task.config.seed}, it says more"
            channel.send(_NoResult("FAILED", f"unexpected {type(error).__name__}: {error}; {alone}"))


class _ChannelReporter:
    """A Reporter in a child process. It raises Interrupted in a step or after an epoch when the run is to stop."""

    def __init__(self, channel: Channel[_Message]) -> None:
        self.channel = channel
        self._steps, self._next = 0, 0.0

    def started(self, run_id: str, steps: int, done: int) -> None:
        self.channel.send(_Started(run_id, steps, done))

    def tell(self, text: str) -> None:
        self.channel.send(_Note(text))

    def step(self, count: int = 1) -> None:
        self._steps += count
        if time.monotonic() >= self._next:
            self._send_steps()
            self.channel.check_stop()
            self._next = time.monotonic() + POLL

    def epoch(self, number: int, row: dict[str, float]) -> None:
        self._send_steps()
        self.channel.send(_Epoch(number, row))
        self.channel.check_stop()

    def _send_steps(self) -> None:
        self.channel.send(_Steps(self._steps))
        self._steps = 0


class _Seeds:
    """The parent process's view of the seeds: their results so far, the display and the parent run."""

    def __init__(
        self, config: RunConfig, dataset: Dataset, seeds: Sequence[int], results: dict[int, RunResult]
    ) -> None:
        self.config, self.dataset, self.results = config, dataset, results
        reasons = not_comparable(config.entry, config.spec, dataset, config.precision)
        setup = Setup(config.entry.name, config.spec, dataset.fingerprint, dataset.status, reasons)
        self.parent = Group(setup, seeds, say)
        self._run_ids: dict[int, str] = {}
        self._parent_opened = False
        self._display: SeedsDisplay

    def finished(self) -> list[str]:
        return [result.run_id for result in self.results.values() if result.status == "FINISHED"]

    def train(self, tasks: list[_Task], at_once: int) -> int:
        """Train until every task has ended; return 130 or 143 if a signal came, otherwise 0."""
        if not tasks:
            return 0
        spec = self.config.spec
        steps = spec.training.epochs * (len(self.dataset.train) // spec.training.batch_size)
        self._run_ids = {task.config.seed: task.run_id for task in tasks}
        with progress.seeds_display(spec, len(tasks), steps) as self._display:
            return run_all(_train_seed, tasks, at_once, self)

    def message(self, task: _Task, message: _Message) -> None:
        seed = task.config.seed
        row = self._display.row(seed)
        match message:
            case _Started(run_id, steps, done):
                row.started(run_id, steps, done)
                self._run_ids[seed] = run_id
                self._add_to_parent(run_id)
            case _Note(text):
                row.tell(text)
            case _Steps(count):
                row.step(count)
            case _Epoch(number, values):
                row.epoch(number, values)
            case _NoResult(status, error):
                self.results[seed] = self._no_result(seed, status, error)
            case RunResult():
                self.results[seed] = message

    def ended(self, task: _Task, exit_code: int | None, stopped: bool) -> None:
        seed = task.config.seed
        if exit_code is None:
            self.results[seed] = self._no_result(seed, "KILLED", "a signal came before it began")
            return
        if seed not in self.results:
            how = f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with code {exit_code}"
            self.results[seed] = self._no_result(seed, "KILLED" if stopped else "FAILED", f"its process {how}")
        self._display.end(self.results[seed])

    def _add_to_parent(self, run_id: str) -> None:
        if not self._parent_opened:
            self.parent.open(self.finished())
            self._parent_opened = True
        self.parent.add(run_id)

    def _no_result(self, seed: int, status: Status, error: str) -> RunResult:
        run_id = self._run_ids[seed]
        return RunResult(
            run_id=run_id,
            status=status,
            experiment=self.config.entry.name,
            seed=seed,
            epochs=run_dir.epochs(run_id),
            cost=None,
            heldout_neg_elbo=None,
            test_neg_elbo=None,
            seconds=0.0,
            data=DataSource.of(self.dataset),
            reasons=(UNFINISHED,),
            error=error,
            cause="interrupted" if status == "KILLED" else "error",
            exit_code=1,
        )
