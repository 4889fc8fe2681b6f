"""Several seeds of one experiment at a time: a process for each, one display, one parent run in the tracking store."""

import os
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from repro import provenance
from repro.data import Dataset
from repro.errors import ReproError
from repro.names import Status
from repro.runs import claims, progress, run_dir, runner
from repro.runs.claims import Claim
from repro.runs.config import RunConfig
from repro.runs.parallel import POLL, Channel, run_all
from repro.runs.progress import RunDisplay, SeedsDisplay
from repro.runs.result import UNFINISHED, DataSource, RunResult, not_comparable
from repro.signals import Interrupted
from repro.terminal import phase, say
from repro.text import seed_list
from repro.tracking.parents import SeedsParent
from repro.tracking.store import StoreError


@dataclass(frozen=True)
class SeedsResult:
    """The results of the seeds, in their order. `exit_code` is 130 or 143 after an interrupt, 1 if a seed failed."""

    experiment: str
    parent_run_id: str | None  # None if the tracking store did not take the parent run
    runs: tuple[RunResult, ...]
    exit_code: int

    def to_json(self) -> dict[str, Any]:
        runs = [run.to_json() for run in self.runs]
        return {"experiment": self.experiment, "parent_run_id": self.parent_run_id, "runs": runs}


def run(config: RunConfig, dataset: Dataset, seeds: Sequence[int], at_once: int) -> SeedsResult:
    """Train the seeds that have not finished before, `at_once` at a time.

    `config` is that of every seed but for the seed itself. A run that was cut off goes on, with the number of threads
    that it began with. Failures and interrupts are in the result.
    """
    config = replace(config, fingerprint=dataset.fingerprint)
    reasons = not_comparable(config.entry, config.spec, dataset, config.precision)
    progress.announce(config, dataset, f"seeds {seed_list(seeds)}, {at_once} at a time")
    with phase("looking for runs that have finished"):
        earlier = claims.of_seeds(config)
    parent = SeedsParent(
        config.entry.name, config.spec, dataset.fingerprint, dataset.status, reasons, frozenset(seeds), say,
        config.changes(dataset.status),
    )  # fmt: skip
    results = {result.seed: result for result in _finished(earlier, seeds)}
    delivered = [_report_finished(result) for result in results.values()]
    stopped = _train(config, dataset, [seed for seed in seeds if seed not in results], at_once, parent, results)
    elsewhere = [seed for seed in seeds if results[seed].status == "RUNNING"]
    if elsewhere and not stopped:  # by now they have finished, or were given up
        now = claims.of_seeds(config)
        results |= {result.seed: result for result in _finished(now, elsewhere)}
        given_up = [seed for seed in elsewhere if seed not in now or now[seed].state == "here"]
        stopped = _train(config, dataset, given_up, at_once, parent, results)
    runs = tuple(results[seed] for seed in seeds)
    done = [result.run_id for result in runs if result.status == "FINISHED"]
    busy = any(result.status == "RUNNING" for result in runs)
    status: Status = "KILLED" if stopped else "FINISHED" if len(done) == len(seeds) else "RUNNING" if busy else "FAILED"
    with phase("closing the parent run"):
        parent.close(status, done)
    progress.conclude_seeds(runs, config.experiment, reasons)
    if busy and not stopped:
        say("other processes train the seeds with the status RUNNING; to gather them, give the same command again")
    elif any(result.status != "FINISHED" and result.cause != "not finite" for result in runs):
        say(f"go on: {provenance.command()}")
    if any(result.cause == "not finite" for result in runs):
        lower = f"--set optim.lr={config.spec.optim.lr / 10:g}"
        say(f"a seed whose cost was not finite diverges again; a lower learning rate may help: {lower}")
    failed = not all(delivered) or any(each.exit_code for each in runs)
    return SeedsResult(config.entry.name, parent.run_id, runs, stopped or int(failed))


def _train(
    config: RunConfig,
    dataset: Dataset,
    seeds: Sequence[int],
    at_once: int,
    parent: SeedsParent,
    results: dict[int, RunResult],
) -> int:
    """Train seeds and add their results. Returns 0, or 130 or 143 after an interrupt."""
    if not seeds:
        return 0
    tasks = [_Task(replace(config, seed=seed), DataSource.of(dataset)) for seed in seeds]
    steps = config.spec.training.epochs * (len(dataset.train) // config.spec.training.batch_size)
    with progress.bars() as bars:
        handler = _SeedsHandler(parent, results, SeedsDisplay(config.spec, len(tasks), steps, bars))
        return run_all(_train_seed, tasks, at_once, handler.on_end, handler.on_message)


def finished(config: RunConfig, dataset: Dataset, seeds: Sequence[int]) -> list[RunResult]:
    """Return the results of the seeds that have finished before, without training any."""
    return _finished(claims.of_seeds(replace(config, fingerprint=dataset.fingerprint)), seeds)


def _finished(earlier: dict[int, Claim], seeds: Sequence[int]) -> list[RunResult]:
    found = [earlier[seed].result for seed in seeds if seed in earlier]
    return [result for result in found if result is not None]


def _report_finished(result: RunResult) -> bool:
    """Print that a seed has finished before, and deliver what the store lacks of it; False if the store refuses."""
    say(f"seed {result.seed}: finished before, run {result.run_id[:8]}, cost {result.cost:.4f}")
    try:
        return not run_dir.exists(result.run_id) or runner.deliver(result.run_id, say)
    except run_dir.BusyError:
        return True


class _Task(NamedTuple):
    config: RunConfig
    data: DataSource

    def elsewhere(self) -> RunResult:
        """Return what is known of a seed that another process trains."""
        return replace(self.unfinished("", "RUNNING", ""), error=None, cause="", exit_code=0)

    def unfinished(self, run_id: str, status: Status, error: str) -> RunResult:
        """Return the result of a run that ended without one."""
        return RunResult(
            run_id=run_id,
            status=status,
            experiment=self.config.entry.name,
            seed=self.config.seed,
            epochs=run_dir.epochs(run_id),
            data=self.data,
            reasons=(UNFINISHED,),
            error=error,
            cause="interrupted" if status == "KILLED" else "error",
            exit_code=1,
        )


_Message = str | partial[None] | RunResult
"""The id of the run that begins, a call of a method of the seed's RunDisplay, or the result."""


def _train_seed(task: _Task, channel: Channel[_Message]) -> None:
    """Train a seed in a child process, which prints nothing: the parent process has one display for all."""
    run_id = ""
    with Path(os.devnull).open("w", encoding="utf-8") as silence, redirect_stdout(silence), redirect_stderr(silence):
        try:
            channel.check_stop()
            config, claim = task.config, claims.of_seeds(task.config).get(task.config.seed)
            if claim and claim.state == "here":
                run_id = claim.run_id
                config, dataset = run_dir.recorded(run_id, config.data_dir)
            elif claim is None:
                dataset = config.load_data()
                run_id = _begin(config, dataset)
            if not run_id:
                channel.send(task.elsewhere())
                return
            channel.check_stop()
            result = runner.run(run_id, config, dataset, _ChannelReporter(channel))
        except Interrupted as stop:
            result = task.unfinished(run_id, "KILLED", f"interrupted by {stop}")
        except run_dir.BusyError:
            result = task.elsewhere()
        except (ReproError, OSError) as error:
            result = task.unfinished(run_id, "FAILED", str(error))
        except Exception as error:
            alone = f"alone, with --seed {task.config.seed}, it says more"
            result = task.unfinished(run_id, "FAILED", f"unexpected {type(error).__name__}: {error}; {alone}")
    channel.send(result)


def _begin(config: RunConfig, dataset: Dataset) -> str:
    """Begin the run of a seed and return its id; "" if another process has begun it at the same time."""
    run_id = runner.begin(config, dataset)
    with suppress(StoreError):  # training goes on without the store
        if claims.others(config, run_id):
            runner.give_up(run_id)
            return ""
    return run_id


class _ChannelReporter(runner.Reporter):
    """A Reporter in a child process. It raises Interrupted in a step or after an epoch when the run is to stop."""

    def __init__(self, channel: Channel[_Message]) -> None:
        self.channel = channel
        self._steps, self._next = 0, 0.0

    def started(self, run_id: str, steps: int, done: int) -> None:
        self.channel.send(partial(RunDisplay.started, run_id=run_id, steps=steps, done=done))
        self.channel.send(run_id)

    def phase(self, text: str) -> None:
        self.channel.send(partial(RunDisplay.phase, text=text))

    def tell(self, text: str) -> None:
        self.channel.send(partial(RunDisplay.tell, text=text))

    def step(self, count: int = 1) -> None:
        self._steps += count
        if time.monotonic() >= self._next:
            self._send_steps()
            self.channel.check_stop()
            self._next = time.monotonic() + POLL

    def epoch(self, number: int, row: dict[str, float]) -> None:
        self._send_steps()
        self.channel.send(partial(RunDisplay.epoch, number=number, row=row))
        self.channel.check_stop()

    def _send_steps(self) -> None:
        self.channel.send(partial(RunDisplay.step, count=self._steps))
        self._steps = 0


class _SeedsHandler:
    """Passes the messages of the seeds' processes on to the display, the parent run and the results."""

    def __init__(self, parent: SeedsParent, results: dict[int, RunResult], display: SeedsDisplay) -> None:
        self.parent, self.results, self.display = parent, results, display
        self.finished_before = [result.run_id for result in results.values()]
        self._run_ids: dict[int, str] = {}  # of the seeds that have started, by seed

    def on_message(self, task: _Task, message: _Message) -> None:
        seed = task.config.seed
        match message:
            case str():
                if not self._run_ids:
                    self.parent.open(self.finished_before)
                self._run_ids[seed] = message
                self.parent.add(message)
            case RunResult():
                self.results[seed] = message
            case _:
                self.display.pass_on(seed, message)

    def on_end(self, task: _Task, exit_code: int | None, stopped: bool) -> None:
        seed = task.config.seed
        run_id = self._run_ids.get(seed, "")
        if exit_code is None:
            self.results[seed] = task.unfinished(run_id, "KILLED", "a signal came before it began")
            return
        if seed not in self.results:
            how = f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with code {exit_code}"
            self.results[seed] = task.unfinished(run_id, "KILLED" if stopped else "FAILED", f"its process {how}")
        self.display.end(self.results[seed])
