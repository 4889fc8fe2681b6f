"""One run from its first step to its last artifact: trains, checkpoints and tracks."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from repro import names
from repro.data import Dataset
from repro.errors import ReproError
from repro.model import check
from repro.runs import run_dir
from repro.runs.config import RunConfig
from repro.runs.log import RunLog
from repro.runs.result import UNFINISHED, Cause, DataSource, PrunedError, RunResult, beside_reported, not_comparable
from repro.signals import Interrupted, interruptible
from repro.tracking import write
from repro.tracking.write import LAST_ATTEMPTS, Place, start_run
from repro.training import checkpoint
from repro.training.loop import NotFiniteError
from repro.training.trainer import Trainer


class Reporter(Protocol):
    """Is told how a run goes. Any of its methods but `tell` may raise PrunedError or Interrupted to end the run."""

    def started(self, run_id: str, steps: int, done: int) -> None:
        """A run of `steps` steps in all begins; `done` of them were trained before."""

    def tell(self, text: str) -> None:
        """Something happened that the user should know."""

    def step(self, count: int = 1) -> None:
        """`count` steps were trained."""

    def epoch(self, number: int, row: dict[str, float]) -> None:
        """An epoch was trained and logged."""


def begin(config: RunConfig, dataset: Dataset, place: Place | None = None) -> str:
    """Start a run in the tracking store, write its `run.json`, and return its id.

    Raises UsageError for a model that cannot be built and StoreError when the store does not answer.
    """
    check(config.spec.model, config.spec.data.shape)
    name = config.entry.name
    run_id = start_run(place or Place(name, f"{name} seed {config.seed}"))
    run_dir.save_config(run_id, replace(config.resolved(), fingerprint=dataset.fingerprint))
    return run_id


def run(run_id: str, config: RunConfig, dataset: Dataset, reporter: Reporter) -> RunResult:
    """Train from the newest sound checkpoint, or from the start, to the end; track everything; return the result.

    Steps are computed with the precision, engine and products that `begin` recorded. A run that was cut off at any
    instant goes on as if nothing had happened. Failures and interrupts are in the result's status, cause and error.
    Raises BusyError if another process works on the run.
    """
    began = time.perf_counter()
    recorded = run_dir.load_config(run_id)
    config = replace(config, precision=recorded.precision, engine=recorded.engine, products=recorded.products)
    with run_dir.locked(run_id):
        work = _Run(run_id, config, dataset, reporter)
        end = _End("FINISHED")
        try:
            with interruptible() as check_interrupt:
                work.open()
                work.train(check_interrupt)
                work.finish()
        except Interrupted as stop:
            end = _End("KILLED", "interrupted", f"interrupted by {stop}", exit_code=stop.exit_code)
        except PrunedError as stop:
            end = _End("KILLED", "pruned", str(stop), tag=type(stop).__name__)
        except (ReproError, OSError) as error:
            cause: Cause = "not finite" if isinstance(error, NotFiniteError) else "error"
            end = _End("FAILED", cause, str(error), tag=type(error).__name__, exit_code=1)
        except BaseException as error:
            work.close(_End("FAILED", "error", repr(error), exit_code=1), time.perf_counter() - began)
            raise
        return work.close(end, time.perf_counter() - began)


def deliver(run_id: str, tell: Callable[[str], None]) -> bool:
    """Send to the tracking store what it lacks of a run; True if it has everything now.

    Raises BusyError if another process works on the run; that process delivers for itself.
    """
    with run_dir.locked(run_id):
        return write.sync(run_id, run_dir.path(run_id), tell)


@dataclass(frozen=True)
class _End:
    """How a run ended. `tag` is the value of its MLflow tag names.CAUSE."""

    status: names.Status
    cause: Cause = ""
    error: str | None = None
    tag: str = "-"
    exit_code: int = 0


class _Run:
    """The phases of a run, in their order, and what they share."""

    def __init__(self, run_id: str, config: RunConfig, dataset: Dataset, reporter: Reporter) -> None:
        self.run_id, self.config, self.dataset, self.reporter = run_id, config, dataset, reporter
        self.trainer = Trainer(config.spec, config.seed, dataset, config.settings)
        self.reasons = not_comparable(config.entry, config.spec, dataset, config.precision)
        self.test_neg_elbo: float | None = None
        self.log = RunLog(run_id, config, dataset, self.trainer, reporter.tell)

    def open(self) -> None:
        if self.log.begun:
            self._restore()
            self._report_other_engine()
            self.log.reopen()
        else:
            self.log.describe(self.reasons)
        steps = self.trainer.steps_per_epoch
        epochs, done = self.config.spec.training.epochs, len(self.trainer.history)
        self.reporter.started(self.run_id, epochs * steps, done * steps)

    def train(self, check_interrupt: Callable[[], None]) -> None:
        def after_step() -> None:
            self.reporter.step()
            check_interrupt()

        done = len(self.trainer.history)
        if not done:
            self.log.checkpoint()
        self.log.epoch(done)
        for epoch in range(done + 1, self.config.spec.training.epochs + 1):
            row = self.trainer.epoch(after_step)
            self.log.checkpoint()
            self.log.epoch(epoch)
            self.reporter.epoch(epoch, row)
            check_interrupt()

    def finish(self) -> None:
        self.log.weights()
        if not self.config.trial:
            costs = self.trainer.test()
            self.test_neg_elbo = costs.cost
            self.log.test(costs)

    def close(self, end: _End, seconds: float) -> RunResult:
        """Log the end, deliver what is left, and save the result."""
        reasons = self.reasons if end.status == "FINISHED" else (*self.reasons, UNFINISHED)
        self.log.end(end.status, reasons, {names.ERROR: end.error, names.CAUSE: end.tag} if end.error else {})
        error, exit_code = end.error, end.exit_code
        if not self.log.writer.deliver(LAST_ATTEMPTS):
            error = f"{error + '; ' if error else ''}{self.log.writer.undelivered()}"
            exit_code = exit_code or 1
        history = self.trainer.history
        last = history[-1] if history else {}
        result = RunResult(
            run_id=self.run_id,
            status=end.status,
            experiment=self.config.entry.name,
            seed=self.config.seed,
            epochs=len(history),
            cost=last.get(names.COST),
            heldout_neg_elbo=last.get(names.HELDOUT_NEG_ELBO),
            test_neg_elbo=self.test_neg_elbo,
            seconds=seconds,
            data=DataSource.of(self.dataset),
            reasons=reasons,
            reported=beside_reported(self.config.spec, [row[names.COST] for row in history]),
            error=error,
            cause=end.cause,
            exit_code=exit_code,
        )
        with self.log.survive_disk_errors("the summary cannot be kept"):
            run_dir.save_result(self.run_id, result)
        return result

    def _restore(self) -> None:
        """Restore the newest sound checkpoint; without any the run starts again from its first epoch."""
        state, faults = checkpoint.newest(run_dir.checkpoints(self.run_id), self.config.spec.signature)
        for fault in faults:
            self.reporter.tell(f"{fault}; an older one is used")
        if state is None:
            if self.log.journal.has("metrics"):
                raise checkpoint.CheckpointError(f"run {self.run_id} has no checkpoint left that can be used")
            return
        self.trainer.restore(state)
        for epoch in range(1, len(state.history)):
            self.log.metrics(epoch)

    def _report_other_engine(self) -> None:
        before, now = self.config.settings, self.trainer.step.settings
        if now != before:
            self.reporter.tell(
                f"run {self.run_id} was computed by {before.engine} {before.products}, which this machine cannot do; "
                f"it goes on with {now.engine} {now.products}, whose results differ in their last digits"
            )
