"""Many seeds of one experiment, side by side: a process for each, one display, one parent in the tracking store."""

import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

from repro import folder, prepare, progress, provenance
from repro.outcome import Status, Summary, not_comparable
from repro.progress import SeedReporter, SeedsDisplay
from repro.request import Request
from repro.seed_process import PAUSE, STOPS, Job, train
from repro.signals import Interrupted, interruptible
from repro.text import seed_list
from repro.tracking import write
from repro.tracking.group import Group, Setup

PATIENCE = 30.0  # seconds that a process is given to end by itself after a second signal

Results = dict[int, dict[str, Any]]  # what `run --summary` writes of a run, by seed


@dataclass(frozen=True)
class Outcome:
    """What the seeds came to. `runs` are their summaries in order; the run id is "" where none was begun."""

    experiment: str
    parent_run_id: str | None  # None if the tracking store did not take the parent
    runs: list[dict[str, Any]]
    exit_code: int

    def to_json(self) -> dict[str, Any]:
        """The fields that `--summary` writes."""
        runs = [run | {"run_id": run["run_id"] or None} for run in self.runs]
        return {"experiment": self.experiment, "parent_run_id": self.parent_run_id, "runs": runs}


def run(request: Request, seeds: Sequence[int], at_once: int, asked: dict[str, Any]) -> Outcome:
    """Train those of the seeds that have not finished before, `at_once` at a time; what they share is in `request`.

    A run that was cut off goes on, with the threads that it had. `asked` is what only the command line knows. Failures
    and interrupts are in the outcome. Raises UsageError if the record of an earlier run is damaged.
    """
    spec, dataset = request.spec, request.dataset
    reasons = not_comparable(request.entry, spec, dataset, request.precision)
    progress.announce(request, f"seeds {seed_list(seeds)}, {at_once} at a time")
    known = prepare.same(asked["experiment"], spec, dataset.fingerprint)
    results = _outcomes(known, seeds)
    delivered = [_tell_finished(seed, result) for seed, result in results.items()]
    setup = Setup(request.entry.name, spec, dataset.fingerprint, dataset.status, tuple(reasons))
    work = _Work(request, Group(setup, seeds, progress.say))
    left = [seed for seed in seeds if seed not in results]
    if left:
        how = request.entry, spec, request.device.type, request.threads, asked
        jobs = [Job(*how, seed, known[seed].run_id if seed in known else "") for seed in left]
        work.train(jobs, at_once, _finished(results))
    results |= {seed: summary.to_json() for seed, summary in work.summaries.items()}
    work.group.close(work.status, _finished(results))
    runs = [results[seed] for seed in seeds]
    progress.conclude_seeds(runs, reasons)
    if work.status != "FINISHED":
        progress.say(f"go on: {provenance.command()}")
    failed = not all(delivered) or any(summary.exit_code for summary in work.summaries.values())
    return Outcome(request.entry.name, work.group.run_id, runs, work.stopped or int(failed))


def before(request: Request, seeds: Sequence[int], experiment: str) -> list[dict[str, Any]]:
    """The summaries of those of the seeds that have finished before; nothing is trained."""
    return list(_outcomes(prepare.same(experiment, request.spec, request.dataset.fingerprint), seeds).values())


def _outcomes(known: dict[int, folder.Plan], seeds: Sequence[int]) -> Results:
    return {seed: found for seed in seeds if seed in known and (found := folder.outcome(known[seed].run_id))}


def _finished(results: Results) -> list[str]:
    return [result["run_id"] for result in results.values() if result["status"] == "FINISHED"]


def _tell_finished(seed: int, result: dict[str, Any]) -> bool:
    """Say that a seed has finished before, and deliver what the store lacks of it; False if the store refuses that."""
    run_id = result["run_id"]
    progress.say(f"seed {seed}: finished before, run {run_id[:8]}, cost {result['cost']:.4f}")
    try:
        with folder.locked(run_id):
            return write.sync(run_id, folder.of(run_id), progress.say)
    except folder.BusyError:
        return True  # that process delivers for itself


@dataclass
class _Child:
    """A seed's process, and what it has said so far."""

    job: Job
    process: BaseProcess
    row: SeedReporter
    run_id: str
    summary: Summary | None = None


class _Work:
    """Seeds in training. `summaries` are by seed; `stopped` is the exit code that an interrupt asks for, or 0."""

    def __init__(self, request: Request, group: Group) -> None:
        self.request, self.group = request, group
        self.waiting: list[Job] = []
        self.running: dict[Any, _Child] = {}  # by the end of the pipe that is here
        self.summaries: dict[int, Summary] = {}
        self.stopped = 0

    @property
    def status(self) -> Status:
        """What the seeds have come to together."""
        if self.stopped:
            return "KILLED"
        return "FINISHED" if all(each.status == "FINISHED" for each in self.summaries.values()) else "FAILED"

    def train(self, jobs: list[Job], at_once: int, finished: list[str]) -> None:
        """Until every job has ended, by itself or by a signal; no process is left then."""
        self.waiting = list(jobs)
        spec = self.request.spec
        steps = spec.training.epochs * (len(self.request.dataset.train) // spec.training.batch_size)
        with progress.seeds_display(spec, len(jobs), steps) as display:
            try:
                with interruptible() as check:
                    self.group.open(finished)
                    resource_tracker.ensure_running()  # as it starts it unblocks signals, which `_start` has blocked
                    self._until_all_have_ended(at_once, display, check)
            except Interrupted as second:
                self.stopped = second.exit_code
                for child in self.running.values():
                    child.process.terminate()
            finally:
                self._leave_nobody(display)

    def _until_all_have_ended(self, at_once: int, display: SeedsDisplay, check: Callable[[], None]) -> None:
        self._heed(check)
        while self.waiting or self.running:
            while self.waiting and len(self.running) < at_once:
                self._start(self.waiting.pop(0), display)
            for line in connection.wait(list(self.running), timeout=PAUSE):
                self._hear(line, display)
            self._heed(check)

    def _start(self, job: Job, display: SeedsDisplay) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=train, args=(job, theirs), name=f"seed {job.seed}")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # inherited: none can hit it before it is ready
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.running[ours] = _Child(job, process, display.row(job.seed), job.run_id)

    def _hear(self, line: Any, display: SeedsDisplay) -> None:
        """Take one message of a process, or its end."""
        child = self.running[line]
        try:
            what, *values = line.recv()
        except (EOFError, OSError):
            self._ended(line, display)
            return
        if what == "end":
            child.summary = values[0]
        elif what == "lost":
            child.summary = self._lost(child.job, values[0], values[1], child.run_id)
        else:
            getattr(child.row, what)(*values)
        if what == "started":
            child.run_id = values[0]
            self.group.adopt(child.run_id)

    def _ended(self, line: Any, display: SeedsDisplay) -> None:
        child = self.running.pop(line)
        line.close()
        child.process.join()
        summary = child.summary
        if summary is None:
            code = child.process.exitcode or 0
            how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            summary = self._lost(child.job, "KILLED" if self.stopped else "FAILED", f"its process {how}", child.run_id)
        self.summaries[child.job.seed] = summary
        display.end(child.row, summary)

    def _heed(self, check: Callable[[], None]) -> None:
        """Pass a signal on to the processes, and begin no other."""
        try:
            check()
        except Interrupted as stop:
            if self.stopped:
                return
            self.stopped = stop.exit_code
            for job in self.waiting:
                self.summaries[job.seed] = self._lost(job, "KILLED", f"{stop} came before it began", job.run_id)
            self.waiting.clear()
            for line in self.running:
                with suppress(OSError):
                    line.send(stop.exit_code - 128)

    def _leave_nobody(self, display: SeedsDisplay) -> None:
        """End the processes that are left, if any: the end of its pipe tells a process to stop, if it still can."""
        for line in self.running:
            line.close()
        for line, child in list(self.running.items()):
            child.process.join(PATIENCE)
            if child.process.is_alive():
                child.process.kill()
            self._ended(line, display)

    def _lost(self, job: Job, status: Status, error: str, run_id: str) -> Summary:
        """The summary of a run that has not left one itself; its id is "" if it was never begun."""
        dataset = self.request.dataset
        data = {
            "source": dataset.origin,
            "canonical": dataset.status == "canonical",
            "fingerprint": dataset.fingerprint,
        }
        return Summary(
            run_id=run_id,
            status=status,
            experiment=job.entry.name,
            seed=job.seed,
            epochs=folder.epochs(run_id),
            cost=None,
            heldout_neg_elbo=None,
            test_neg_elbo=None,
            seconds=0.0,
            data=data,
            comparable=False,
            reasons=["it did not finish"],
            error=error,
            exit_code=1,
        )
