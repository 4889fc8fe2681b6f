"""Runs one training from its first step to its last artifact: trains, checkpoints and tracks."""

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
from repro.runs.result import UNFINISHED, Cause, DataSource, PrunedError, RunResult, beside_reported
from repro.signals import Interrupted, interruptible
from repro.tracking import writer
from repro.tracking.writer import LAST_ATTEMPTS, NewRun, start_run
from repro.training import checkpoint
from repro.training.loop import NotFiniteError
from repro.training.trainer import Trainer


class Reporter(Protocol):
    """Is told how a run goes. Any of its methods but `tell` may raise PrunedError or Interrupted to end the run.

    `started` is called before the first of the `steps` steps that the run has in all, of which `done` were trained
    before; `step` after `count` steps were trained; `epoch` after an epoch was trained and logged; `tell` with a
    sentence that the user should read.
    """

    def started(self, run_id: str, steps: int, done: int) -> None: ...

    def step(self, count: int = 1) -> None: ...

    def epoch(self, number: int, row: dict[str, float]) -> None: ...

    def tell(self, text: str) -> None: ...


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
        end = _End("FINISHED")
        try:
            with interruptible() as check_interrupt:
                _open(log, reporter)
                _train(log, reporter, check_interrupt)
                log.weights()
                if not config.trial:
                    log.test()
        except Interrupted as stop:
            end = _End("KILLED", "interrupted", f"interrupted by {stop}", exit_code=stop.exit_code)
        except PrunedError as stop:
            end = _End("KILLED", "pruned", str(stop), tag=type(stop).__name__)
        except (ReproError, OSError) as error:
            cause: Cause = "not finite" if isinstance(error, NotFiniteError) else "error"
            end = _End("FAILED", cause, str(error), tag=type(error).__name__, exit_code=1)
        except BaseException as error:
            _close(log, _End("FAILED", "error", repr(error), exit_code=1), time.perf_counter() - began)
            raise
        return _close(log, end, time.perf_counter() - began)


def deliver(run_id: str, tell: Callable[[str], None]) -> bool:
    """Send to the tracking store what it lacks of a run; return whether it has everything now.

    Raises BusyError if another process works on the run; that process delivers for itself.
    """
    with run_dir.locked(run_id):
        return writer.sync(run_id, run_dir.path(run_id), tell)


@dataclass(frozen=True)
class _End:
    """How a run ended. `tag` is the value of its MLflow tag names.CAUSE."""

    status: names.Status
    cause: Cause = ""
    error: str | None = None
    tag: str = "-"
    exit_code: int = 0


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


def _close(log: RunLog, end: _End, seconds: float) -> RunResult:
    """Log the end, deliver what is left, and save the result."""
    reasons = log.reasons if end.status == "FINISHED" else (*log.reasons, UNFINISHED)
    log.end(end.status, reasons, {names.ERROR: end.error, names.CAUSE: end.tag} if end.error else {})
    error, exit_code = end.error, end.exit_code
    if not log.writer.deliver(LAST_ATTEMPTS):
        error = f"{error + '; ' if error else ''}{log.writer.undelivered()}"
        exit_code = exit_code or 1
    history = log.trainer.history
    last = history[-1] if history else {}
    result = RunResult(
        run_id=log.run_id,
        status=end.status,
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
        error=error,
        cause=end.cause,
        exit_code=exit_code,
    )
    with log.survive_disk_errors("the summary cannot be kept"):
        run_dir.save_result(log.run_id, result)
    return result
