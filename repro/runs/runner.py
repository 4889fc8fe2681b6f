"""Runs one training from its first step to its last artifact: trains, checkpoints and tracks."""

import time
from collections.abc import Callable
from dataclasses import replace

from repro import names
from repro.data import Dataset
from repro.errors import ReproError
from repro.model import check
from repro.runs import run_dir
from repro.runs.config import RunConfig
from repro.runs.log import RunLog
from repro.runs.result import UNFINISHED, Cause, DataSource, PrunedError, RunResult, beside_reported
from repro.signals import Interrupted, interruptible
from repro.tracking.outbox import Outbox
from repro.tracking.writer import LAST_ATTEMPTS, NewRun, RunWriter, start_run
from repro.training import checkpoint
from repro.training.loop import NotFiniteError
from repro.training.trainer import Trainer


class Reporter:
    """Is told how a run goes. Any of its methods but `tell` may raise PrunedError or Interrupted to end the run."""

    def started(self, run_id: str, steps: int, done: int) -> None:
        """Called before the first of the `steps` steps of the run, of which `done` were trained before."""

    def step(self, count: int = 1) -> None:
        """Called after `count` steps were trained."""

    def epoch(self, number: int, row: dict[str, float]) -> None:
        """Called after an epoch was trained and logged."""

    def tell(self, text: str) -> None:
        """Called with a sentence that the user should read."""


def begin(config: RunConfig, dataset: Dataset, new: NewRun | None = None) -> str:
    """Create a run in the tracking store, by default in the experiment's name; write `run.json`; return the run's id.

    Raises UsageError for a model that cannot be built and StoreError when the store does not answer.
    """
    check(config.spec.model, config.spec.data.shape)
    name = config.entry.name
    run_id = start_run(new or NewRun(name, f"{name} seed {config.seed}"))
    run_dir.save_config(run_id, replace(config.resolved(), fingerprint=dataset.fingerprint))
    return run_id


def run(run_id: str, config: RunConfig, dataset: Dataset, reporter: Reporter) -> RunResult:
    """Train from the newest sound checkpoint, or from the start, to the end; track everything; return the result.

    Steps are computed with the precision, engine and products that `begin` recorded. A run that was cut off at any
    instant continues with the same result as an uninterrupted one. Failures and interrupts are in the result's status,
    cause and error. Raises BusyError if another process works on the run.
    """
    began = time.perf_counter()
    recorded = run_dir.load_config(run_id)
    config = replace(config, precision=recorded.precision, engine=recorded.engine, products=recorded.products)
    with run_dir.locked(run_id):
        trainer = Trainer(config.spec, config.seed, dataset, config.settings)
        log = RunLog(run_id, config, dataset, trainer, reporter.tell)
        error: BaseException | None = None
        try:
            with interruptible() as check_interrupt:
                _open(log, reporter)
                _train(log, reporter, check_interrupt)
                log.weights()
                if not config.trial:
                    log.test()
        except (Interrupted, PrunedError, ReproError, OSError) as stop:
            error = stop
        except BaseException as unexpected:
            _close(log, unexpected, time.perf_counter() - began)
            raise
        return _close(log, error, time.perf_counter() - began)


def deliver(run_id: str, tell: Callable[[str], None]) -> bool:
    """Send to the tracking store what it lacks of a run; return whether it has everything now.

    Raises BusyError if another process works on the run; that process delivers for itself.
    """
    with run_dir.locked(run_id):
        outbox = Outbox(run_dir.path(run_id))
        left = len(outbox.pending())
        if not left:
            return True
        writer = RunWriter(run_id, outbox)
        done = writer.deliver(LAST_ATTEMPTS)
        tell(f"run {run_id}: {left} records delivered" if done else f"run {run_id}: {writer.undelivered()}")
        return done


def _how_it_ended(error: BaseException | None) -> tuple[names.Status, Cause, str | None, int]:
    """Return status, cause, message and exit code of a run that this error has ended, or None."""
    match error:
        case None:
            return "FINISHED", "", None, 0
        case Interrupted():
            return "KILLED", "interrupted", f"interrupted by {error}", error.exit_code
        case PrunedError():
            return "KILLED", "pruned", str(error), 0
        case NotFiniteError():
            return "FAILED", "not finite", str(error), 1
        case ReproError() | OSError():
            return "FAILED", "error", str(error), 1
        case _:
            return "FAILED", "error", repr(error), 1


def _open(log: RunLog, reporter: Reporter) -> None:
    """Describe a new run, or restore the newest sound checkpoint; without any the run starts again."""
    trainer, before = log.trainer, log.config.settings
    if log.outbox.has("about"):
        state, faults = checkpoint.newest(run_dir.checkpoints(log.run_id), log.config.spec.signature)
        for fault in faults:
            reporter.tell(f"{fault}; an older one is used")
        if state is not None:
            trainer.restore(state)
            for epoch in range(1, len(state.history)):
                log.metrics(epoch)
        elif log.outbox.has("metrics"):
            raise checkpoint.CheckpointError(f"run {log.run_id} has no checkpoint left that can be used")
        now = trainer.step.settings
        if now != before:
            reporter.tell(
                f"run {log.run_id} was computed by {before.engine} {before.products}, which this machine cannot do; "
                f"it goes on with {now.engine} {now.products}, whose results differ in their last digits"
            )
        log.reopen()
    else:
        log.describe()
    steps, epochs = trainer.steps_per_epoch, log.config.spec.training.epochs
    reporter.started(log.run_id, epochs * steps, len(trainer.history) * steps)


def _train(log: RunLog, reporter: Reporter, check_interrupt: Callable[[], None]) -> None:
    def after_step() -> None:
        reporter.step()
        check_interrupt()

    done = len(log.trainer.history)
    if not done:
        log.checkpoint()
    log.epoch(done)
    for epoch in range(done + 1, log.config.spec.training.epochs + 1):
        row = log.trainer.epoch(after_step)
        log.checkpoint()
        log.epoch(epoch)
        reporter.epoch(epoch, row)
        check_interrupt()


def _close(log: RunLog, error: BaseException | None, seconds: float) -> RunResult:
    """Log the end, deliver what is left, and save the result."""
    status, cause, message, exit_code = _how_it_ended(error)
    reasons = log.reasons if status == "FINISHED" else (*log.reasons, UNFINISHED)
    kind = type(error).__name__ if isinstance(error, (PrunedError, ReproError, OSError)) else "-"
    log.end(status, reasons, {names.ERROR: message, names.CAUSE: kind} if message else {})
    if not log.writer.deliver(LAST_ATTEMPTS):
        message = f"{message + '; ' if message else ''}{log.writer.undelivered()}"
        exit_code = exit_code or 1
    history = log.trainer.history
    last = history[-1] if history else {}
    result = RunResult(
        run_id=log.run_id,
        status=status,
        experiment=log.config.entry.name,
        seed=log.config.seed,
        epochs=len(history),
        cost=last.get(names.COST),
        heldout_neg_elbo=last.get(names.HELDOUT_NEG_ELBO),
        test_neg_elbo=log.test_neg_elbo,
        seconds=seconds,
        data=DataSource.of(log.dataset),
        reasons=reasons,
        reported=beside_reported(log.config.spec, [row[names.COST] for row in history]),
        error=message,
        cause=cause,
        exit_code=exit_code,
    )
    with log.survive_disk_errors("the summary cannot be kept"):
        run_dir.save_result(log.run_id, result)
    return result
