"""Runs one training from its first step to its last artifact: trains, checkpoints and tracks."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace

import numpy as np
import torch

from repro import names, provenance
from repro.data import Dataset
from repro.errors import ReproError
from repro.evaluation.likelihood import entropy_floor
from repro.model import Generator, check
from repro.runs import claims, ids, pictures, run_dir
from repro.runs.config import RunConfig
from repro.runs.result import (
    UNFINISHED,
    DataSource,
    PrunedError,
    RunResult,
    beside_reported,
    how_it_ended,
    not_comparable,
)  # fmt: skip
from repro.signals import Interrupted, interruptible
from repro.tracking import reader
from repro.tracking.store import SilentError, StoreError, open_client
from repro.tracking.writer import RunWriter, as_image, comparability, run_name, start_run
from repro.training import checkpoint
from repro.training.trainer import Trainer

PICTURE_EVERY = 10  # epochs, besides the first and the last


class Reporter:
    """Is told how a run goes. `started`, `step` and `epoch` may raise PrunedError or Interrupted to end the run.

    `started` is called before the first of the `steps` steps of the run, of which `done` were trained before; `step`
    after `count` steps; `epoch` after an epoch was trained and logged; `phase` with what is done before the first step
    and after the last one; `tell` with a sentence for the user.
    """

    def started(self, run_id: str, steps: int, done: int) -> None: ...

    def step(self, count: int = 1) -> None: ...

    def epoch(self, number: int, row: dict[str, float]) -> None: ...

    def phase(self, text: str) -> None: ...

    def tell(self, text: str) -> None: ...


def begin(config: RunConfig, dataset: Dataset, experiment: str = "", tags: dict[str, str] | None = None) -> str:
    """Create a run in the tracking store and a directory for it; return the run's id, which is the store's.

    What the run is to be is on disk first, so that a run whose process dies at any instant is found. If a server does
    not answer, the run keeps an id of its own, and is created when the server answers. The MLflow experiment is by
    default that of the experiment. The run's name, which is a tag, says by default its seed and what sets it apart.
    Raises UsageError for a model that cannot be built and StoreError for a store that refuses.
    """
    check(config.spec.model, config.spec.data.shape)
    config = replace(config.resolved(), fingerprint=dataset.fingerprint)
    given = comparability(not_comparable(config.entry, config.spec, dataset, config.precision))
    experiment = experiment or config.entry.name
    given |= {names.RUN_NAME: run_name(f"seed {config.seed}", config.changes(dataset.status))}
    given |= {names.CLAIM: claims.key(config)} | (tags or {})
    with suppress(SilentError):
        open_client()  # a store that refuses is reported before anything is written
    own_id = ids.new()
    with run_dir.locked(own_id):
        RunWriter(own_id, run_dir.path(own_id)).begin(experiment, given)
        run_dir.save_config(own_id, config)
        try:
            run_id = start_run(experiment, given, own_id)
        except SilentError:
            return own_id
        except StoreError:
            shutil.rmtree(run_dir.path(own_id))
            raise
        run_dir.rename(own_id, run_id)
        RunWriter(run_id, run_dir.path(run_id)).begun()
    return run_id


def give_up(run_id: str) -> None:
    """Delete a run that was begun and not trained. Raises StoreError."""
    reader.forget(run_id)
    shutil.rmtree(run_dir.path(run_id), ignore_errors=True)


def run(run_id: str, config: RunConfig, dataset: Dataset, reporter: Reporter) -> RunResult:
    """Train from the newest sound checkpoint, or from the start, to the end; track everything; return the result.

    Steps are computed with the precision, engine and products that `begin` recorded. A run that was cut off at any
    instant continues with the same result as an uninterrupted one. Failures and interrupts are in the result's status,
    cause and error. A run that another process has finished since the caller looked is left as it is. Raises BusyError
    if another process works on the run.
    """
    began = time.perf_counter()
    recorded = run_dir.load_config(run_id)
    config = replace(config, precision=recorded.precision, engine=recorded.engine, products=recorded.products)
    with run_dir.locked(run_id):
        finished = run_dir.load_result(run_id)
        if finished:
            return finished
        this = _Run(run_id, config, dataset, reporter)
        error: BaseException | None = None
        try:
            with interruptible() as check_interrupt:
                this.open()
                this.train(check_interrupt)
                this.finish()
        except (Interrupted, PrunedError, ReproError, OSError) as stop:
            error = stop
        except BaseException as unexpected:
            this.close(unexpected, time.perf_counter() - began)
            raise
        return this.close(error, time.perf_counter() - began)


def deliver(run_id: str, tell: Callable[[str], None]) -> bool:
    """Send to the tracking store what it lacks of a run; return whether it has everything now.

    Raises BusyError if another process works on the run; that process delivers for itself.
    """
    with run_dir.locked(run_id):
        if run_dir.load_result(run_id):  # its process may have been killed before it removed them
            shutil.rmtree(run_dir.checkpoints(run_id), ignore_errors=True)
        writer = RunWriter(run_id, run_dir.path(run_id))
        left = len(writer.outbox.pending())
        done = not left or writer.deliver()
        writer.outbox.tidy(all_written=True)
        if not left:
            return True
        tell(f"run {run_id}: {left} records delivered" if done else f"run {run_id}: {writer.undelivered()}")
        return done


class _Run:
    """One run: its trainer, and its log. `writer` delivers it to the tracking store, from `open` on."""

    def __init__(self, run_id: str, config: RunConfig, dataset: Dataset, reporter: Reporter) -> None:
        self.run_id, self.config, self.dataset, self.reporter = run_id, config, dataset, reporter
        self.trainer = Trainer(config.spec, config.seed, dataset, config.settings)
        self.reasons = not_comparable(config.entry, config.spec, dataset, config.precision)
        self.test_neg_elbo: float | None = None
        self.writer = RunWriter(run_id, run_dir.path(run_id), reporter.tell)
        self._faults: set[str] = set()  # faults of the disk that were reported

    def open(self) -> None:
        """Describe a new run, or restore the newest sound checkpoint; without any the run starts again."""
        trainer, config = self.trainer, self.config
        run_dir.forget_result(self.run_id)
        self.writer.start()
        if self.writer.outbox.has("about"):
            self.reporter.phase("restoring the checkpoint")
            self._restore()
            now, before = trainer.step.settings, config.settings
            if now != before:
                self.reporter.tell(
                    f"run {self.run_id} was computed by {before.engine} {before.products}, which this machine cannot "
                    f"do; it goes on with {now.engine} {now.products}, whose results differ in their last digits"
                )
            self.writer.complete(config.spec)
            self.writer.status("RUNNING")
            self.writer.tags({names.ERROR: "-", names.CAUSE: "-"})  # of an earlier attempt
        else:
            self.reporter.phase("describing the run")
            self._describe()
        steps = trainer.steps_per_epoch
        self.reporter.started(self.run_id, config.spec.training.epochs * steps, len(trainer.history) * steps)

    def train(self, check_interrupt: Callable[[], None]) -> None:
        """Train, checkpoint and log the epochs that are left."""

        def after_step() -> None:
            self.reporter.step()
            check_interrupt()

        done = len(self.trainer.history)
        if done:
            self._log_epoch(done)
        else:
            self._checkpoint()
        for epoch in range(done + 1, self.config.spec.training.epochs + 1):
            row = self.trainer.epoch(after_step)
            self._checkpoint()
            self._log_epoch(epoch)
            self.reporter.epoch(epoch, row)
            check_interrupt()

    def finish(self) -> None:
        """Log the final weights and their checksum; unless the run is a trial, measure the costs on the test images.

        With them go the cost curve, the last pictures, and the decoder as an MLflow model.
        """
        spec, trainer, phase = self.config.spec, self.trainer, self.reporter.phase
        phase("saving the weights")
        self.writer.tags({names.WEIGHTS_SHA256: trainer.digest()})
        weights = self.writer.outbox.files / names.WEIGHTS_FILE
        checkpoint.write_tensors(weights, trainer.model.state_dict(), {"signature": spec.signature})
        self.writer.file(names.WEIGHTS_FILE)
        if self.config.trial:
            return
        phase("measuring the test images")
        costs = trainer.test()
        self.test_neg_elbo = costs.cost
        metrics = {
            names.TEST_NEG_ELBO: costs.cost,
            names.TEST_RECONSTRUCTION: costs.reconstruction,
            names.TEST_KL: costs.kl,
            names.ENTROPY_FLOOR: entropy_floor(trainer.train_images),
        }
        self.writer.metrics(metrics, spec.training.epochs, "test")
        phase("drawing pictures")
        pictures.cost_curve(self.config, self.dataset, trainer.history, self.writer.outbox.files / "cost_curve.png")
        self.writer.picture("cost_curve.png")
        for key, sheet in pictures.sheets(trainer).items():
            as_image(sheet).save(self.writer.outbox.files / f"{key}.png")
            self.writer.picture(f"{key}.png")
        phase("saving the decoder")
        example = np.zeros((2, spec.model.latent), np.float32)
        self.writer.model(Generator(trainer.model).cpu(), example, "generator")

    def close(self, error: BaseException | None, seconds: float) -> RunResult:
        """Log the run's end, deliver what is left, and save the result; a finished run needs no checkpoint any more."""
        status, cause, message, exit_code = how_it_ended(error)
        reasons = self.reasons if status == "FINISHED" else (*self.reasons, UNFINISHED)
        kind = type(error).__name__ if isinstance(error, (PrunedError, ReproError, OSError)) else "-"
        self.writer.tags(comparability(reasons) | ({names.ERROR: message, names.CAUSE: kind} if message else {}))
        self.writer.status(status)
        self.reporter.phase("delivering to the tracking store")
        if not self.writer.finish():
            message = f"{message + '; ' if message else ''}{self.writer.undelivered()}"
            exit_code = exit_code or 1
        history = self.trainer.history
        last = history[-1] if history else {}
        result = RunResult(
            run_id=self.run_id,
            status=status,
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
            error=message,
            cause=cause,
            exit_code=exit_code,
        )
        with self._survive_disk_errors("the summary cannot be kept"):
            run_dir.save_result(self.run_id, result)
            if status == "FINISHED":
                shutil.rmtree(run_dir.checkpoints(self.run_id), ignore_errors=True)
        return result

    def _restore(self) -> None:
        config = self.config
        state, faults = checkpoint.newest(run_dir.checkpoints(self.run_id), config.spec.signature, config.seed)
        for fault in faults:
            self.reporter.tell(f"{fault}; an older one is used")
        if state is not None:
            self.trainer.restore(state)
            for epoch, row in enumerate(state.history[:-1], start=1):  # `train` logs the last one
                self.writer.metrics(row, epoch, "epoch")
        elif self.writer.outbox.has("metrics"):
            raise checkpoint.CheckpointError(f"run {self.run_id} has no checkpoint left that can be used")

    def _describe(self) -> None:
        """Log settings, spec, data set, code and machine."""
        config, dataset = self.config, self.dataset
        gpu = torch.cuda.get_device_name(config.device) if config.device == "cuda" else "none"
        tags = provenance.describe(gpu) | {
            names.SIGNATURE: config.spec.signature,
            names.DATA_ORIGIN: dataset.origin,
            names.DATA_STATUS: dataset.status,
            names.DATA_FINGERPRINT: dataset.fingerprint,
            names.SET: " ".join(each.partition("=")[0].strip() for each in config.assignments),
        }
        if config.spec.reported:
            tags |= provenance.last_commit(config.entry.file)
        settings = {names.SEED: str(config.seed)}
        settings |= {key: str(value) or "-" for key, value in asdict(self.trainer.step.settings).items()}
        self.writer.describe(config.spec, settings, tags, dataset)

    def _checkpoint(self) -> None:
        with self._survive_disk_errors("no checkpoint can be written, training goes on"):
            checkpoint.save_state(self.trainer.state(), run_dir.checkpoints(self.run_id))

    @contextmanager
    def _survive_disk_errors(self, fault: str) -> Iterator[None]:
        """Report an OSError in the block, once for each `fault`, and go on."""
        try:
            yield
            self._faults.discard(fault)
        except OSError as error:
            if fault not in self._faults:
                self.reporter.tell(f"{fault}: {error}")
            self._faults.add(fault)

    def _log_epoch(self, epoch: int) -> None:
        """Log the metrics of the epoch that was just trained, and pictures of some epochs."""
        self.writer.metrics(self.trainer.history[epoch - 1], epoch, "epoch")
        drawn = epoch in (1, self.config.spec.training.epochs) or epoch % PICTURE_EVERY == 0
        if drawn and not self.config.trial:
            for key, sheet in pictures.sheets(self.trainer).items():
                self.writer.image(sheet, key, epoch)
