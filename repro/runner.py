"""One run from its first step to its last artifact: trains, checkpoints and tracks."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repro import checkpoint, figures, folder, provenance
from repro.engine import to_batch
from repro.errors import ReproError
from repro.evaluation.likelihood import entropy_floor
from repro.model import Generator, check
from repro.outcome import PrunedError, Status, Summary, beside_reported, not_comparable
from repro.randomness import stream
from repro.request import Request
from repro.signals import Interrupted, interruptible
from repro.tracking import names
from repro.tracking.journal import Journal
from repro.tracking.write import LAST_ATTEMPTS, Place, RunWriter, start_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE_EVERY = 10  # epochs, besides the untrained model, the first and the last


class Reporter(Protocol):
    """Who is told how a run goes."""

    def started(self, run_id: str, steps: int, done: int) -> None:
        """A run of that many steps in all has begun; `done` of them were trained before."""

    def tell(self, text: str) -> None:
        """Something that the user should know has happened."""

    def step(self) -> None:
        """A step was trained."""

    def epoch(self, number: int, row: dict[str, float]) -> None:
        """An epoch was trained and logged."""


def begin(request: Request, place: Place | None = None, **asked: Any) -> str:
    """Start a run in the tracking store and record here what was asked for; return its id.

    Raises UsageError for a model that cannot be built and StoreError when the store does not answer.
    """
    check(request.spec.model, request.spec.data.shape)
    name = request.entry.name
    run_id = start_run(place or Place(name, f"{name} seed {request.seed}"))
    folder.of(run_id).mkdir(parents=True, exist_ok=True)
    request.resolved().plan(run_id, **asked).save(folder.of(run_id))
    return run_id


def run(run_id: str, request: Request, reporter: Reporter) -> Summary:
    """Train from the newest sound checkpoint, or from the start, to the end; track all; return what came of it.

    Steps are computed as `begin` recorded it. A run that was cut off at any instant goes on as if nothing had happened.
    Failures and interrupts are in the summary's status and error. Raises ReproError if another process works on it.
    """
    began = time.perf_counter()
    plan = folder.load(run_id)
    request = replace(request, precision=plan.precision, engine=plan.engine, products=plan.products)
    with folder.locked(run_id):
        work = _Run(run_id, request, reporter)
        status: Status = "FINISHED"
        error, code, cause = None, 0, ""
        try:
            with interruptible() as interrupted:
                work.open()
                work.train(interrupted)
                work.finish()
        except Interrupted as stop:
            status, error, code = "KILLED", f"interrupted by {stop}", stop.exit_code
        except PrunedError as stop:
            status, error, cause = "KILLED", str(stop), type(stop).__name__
        except (ReproError, OSError) as failure:
            status, error, code, cause = "FAILED", str(failure), 1, type(failure).__name__
        except BaseException as failure:
            work.close("FAILED", repr(failure))
            raise
        return work.close(status, error, code, time.perf_counter() - began, cause)


class _Run:
    """A run under way: what its phases share, and the phases in their order."""

    def __init__(self, run_id: str, request: Request, reporter: Reporter) -> None:
        self.run_id, self.request, self.spec, self.reporter = run_id, request, request.spec, reporter
        self.trainer = request.trainer()
        self.reasons = not_comparable(request.entry, request.spec, request.dataset, request.precision)
        self.test_neg_elbo: float | None = None
        self.journal = Journal(folder.of(run_id))
        self.writer = RunWriter(run_id, self.journal, reporter.tell)
        self.told: set[str] = set()  # what the disk refuses

    def open(self) -> None:
        """Begin, or take up what is there."""
        if not self.journal.has("about"):
            self._describe()
        else:
            self._restore()
            self._tell_of_other_engine()
            self.writer.status("RUNNING")
            self.writer.tags({names.ERROR: "-", names.CAUSE: "-"})
        steps = self.trainer.steps_per_epoch
        self.reporter.started(self.run_id, self.spec.training.epochs * steps, len(self.trainer.history) * steps)

    def train(self, check_interrupt: Callable[[], None]) -> None:
        """All epochs that are left."""

        def after_step() -> None:
            self.reporter.step()
            check_interrupt()

        done = len(self.trainer.history)
        if not done:
            self._checkpoint()
        self._record(done)
        for epoch in range(done + 1, self.spec.training.epochs + 1):
            row = self.trainer.epoch(after_step)
            self._checkpoint()
            self._record(epoch)
            self.reporter.epoch(epoch, row)
            check_interrupt()

    def finish(self) -> None:
        """Evaluate the final weights, and log them and what they draw."""
        self._keep_weights()
        if self.request.trial:
            return
        test = self.trainer.test()
        self.test_neg_elbo = test.cost
        metrics = {
            names.TEST_NEG_ELBO: test.cost,
            names.TEST_RECONSTRUCTION: test.reconstruction,
            names.TEST_KL: test.kl,
            names.ENTROPY_FLOOR: entropy_floor(self.trainer.train_images),
        }
        if not self.journal.has("metrics", group="test"):
            self.writer.metrics(metrics, self.spec.training.epochs, "test")
        curve = "cost_curve.png"
        self._cost_curve().savefig(self.journal.files / curve)
        self.writer.file(curve)
        example = np.zeros((2, self.spec.model.latent), np.float32)
        self.writer.model(Generator(self.trainer.model).cpu(), example, "generator")

    def _keep_weights(self) -> None:
        self.writer.tags({names.WEIGHTS_SHA256: self.trainer.digest()})
        signature = {"signature": self.spec.signature}
        checkpoint.write_tensors(self.journal.files / names.WEIGHTS_FILE, self.trainer.model.state_dict(), signature)
        self.writer.file(names.WEIGHTS_FILE)

    def close(self, status: Status, error: str | None, code: int = 1, seconds: float = 0.0, cause: str = "") -> Summary:
        """Set the run's end, deliver what is left, and say what it came to."""
        if status != "FINISHED":
            self.reasons.append("it did not finish")
        kept = [] if self.request.trial else sorted(folder.checkpoints(self.run_id).glob("epoch-*.safetensors"))
        for newest in kept[-1:]:
            with self._disk(f"the checkpoint {newest} cannot be logged"):
                shutil.copy2(newest, self.journal.files / newest.name)
                self.writer.file(newest.name, "checkpoints")
        why = {names.ERROR: error, names.CAUSE: cause or "-"} if error else {}
        self.writer.tags(self._comparability() | why)
        self.writer.status(status)
        if not self.writer.deliver(LAST_ATTEMPTS):
            error, code = f"{error + '; ' if error else ''}{self.writer.undelivered()}", code or 1
        dataset = self.request.dataset
        last = self.trainer.history[-1] if self.trainer.history else {}
        summary = Summary(
            run_id=self.run_id,
            status=status,
            experiment=self.request.entry.name,
            seed=self.request.seed,
            epochs=len(self.trainer.history),
            cost=last.get(names.COST),
            heldout_neg_elbo=last.get(names.HELDOUT_NEG_ELBO),
            test_neg_elbo=self.test_neg_elbo,
            seconds=seconds,
            data={
                "source": dataset.origin,
                "canonical": dataset.status == "canonical",
                "fingerprint": dataset.fingerprint,
            },
            comparable=not self.reasons,
            reasons=self.reasons,
            reported=beside_reported(self.spec, [row[names.COST] for row in self.trainer.history]),
            error=error,
            cause=cause,
            exit_code=code,
        )
        with self._disk("the summary cannot be kept"):
            folder.save_outcome(self.run_id, summary.to_json())
        return summary

    def _describe(self) -> None:
        request, dataset = self.request, self.request.dataset
        gpu = torch.cuda.get_device_name(request.device) if request.device.type == "cuda" else "none"
        tags = provenance.describe(gpu) | {
            names.SIGNATURE: self.spec.signature,
            names.DATA_ORIGIN: dataset.origin,
            names.DATA_STATUS: dataset.status,
            names.DATA_FINGERPRINT: dataset.fingerprint,
        }
        if self.spec.reported:
            tags |= provenance.last_commit(request.entry.file)
        settings = {names.SEED: str(request.seed)}
        settings |= {key: str(value) or "-" for key, value in asdict(self.trainer.step.settings).items()}
        self.writer.describe(self.spec, settings, tags | self._comparability(), dataset)

    def _restore(self) -> None:
        """Take up the newest sound checkpoint; without any the run starts again from its first epoch."""
        state, faults = checkpoint.newest(folder.checkpoints(self.run_id), self.spec.signature)
        for fault in faults:
            self.reporter.tell(f"{fault}; an older one is used")
        if state is None:
            if self.journal.has("metrics"):
                raise checkpoint.CheckpointError(f"run {self.run_id} has no checkpoint left that can be used")
            return
        self.trainer.restore(state)
        for epoch in range(1, len(state.history)):
            self._record_metrics(epoch)

    def _tell_of_other_engine(self) -> None:
        before, now = self.request.settings, self.trainer.step.settings
        if now != before:
            self.reporter.tell(
                f"run {self.run_id} was computed by {before.engine} {before.products}, which this machine cannot do; "
                f"it goes on with {now.engine} {now.products}, whose results differ in their last digits"
            )

    def _record(self, epoch: int) -> None:
        """Log what is known after an epoch, unless it is logged already; the weights must be the epoch's."""
        self._record_metrics(epoch)
        drawn = epoch in (0, 1, self.spec.training.epochs) or epoch % PICTURE_EVERY == 0
        if drawn and not self.request.trial:
            self._pictures(epoch)

    def _record_metrics(self, epoch: int) -> None:
        if epoch and not self.journal.has("metrics", step=epoch, group="epoch"):
            self.writer.metrics(self.trainer.history[epoch - 1], epoch, "epoch")

    def _checkpoint(self) -> None:
        with self._disk("no checkpoint can be written, training goes on"):
            checkpoint.save_state(self.trainer.state(), folder.checkpoints(self.run_id))

    @contextmanager
    def _disk(self, fault: str) -> Iterator[None]:
        """What is in the block may be refused by the disk: that is told, once for each fault, and survived."""
        try:
            yield
            self.told.discard(fault)
        except OSError as error:
            if fault not in self.told:
                self.reporter.tell(f"{fault}: {error}")
            self.told.add(fault)

    @torch.no_grad()
    def _pictures(self, epoch: int) -> None:
        z = torch.randn((100, self.spec.model.latent), generator=stream("samples", 0)).to(self.request.device)
        model, originals = self.trainer.model, to_batch(self.trainer.heldout_images[:50])
        copies = model.generate(model.encode(originals)[0])
        pictures = {
            "samples": figures.grid(_numpy(model.generate(z)), columns=10),
            "reconstructions": figures.pairs(_numpy(originals), _numpy(copies), columns=10),
        }
        for key, picture in pictures.items():
            if not self.journal.has("image", key=key, step=epoch):
                self.writer.image(picture, key, epoch)

    def _cost_curve(self) -> "Figure":
        entry, dataset = self.request.entry, self.request.dataset
        curve = None
        if self.spec.reported and dataset.status != "stand-in":
            curve = figures.reported_curve(entry.file, self.spec.reported[-1])
        costs = {epoch: row[names.COST] for epoch, row in enumerate(self.trainer.history, start=1)}
        title = f"{entry.name}, seed {self.request.seed}, {dataset.name} ({dataset.status})"
        return figures.cost_curve(title, {"this run": costs}, curve)

    def _comparability(self) -> dict[str, str]:
        reasons = "; ".join(self.reasons) or "-"
        return {names.COMPARABLE: str(not self.reasons).lower(), names.NOT_COMPARABLE_BECAUSE: reasons}


def _numpy(images: Tensor) -> NDArray[np.float32]:
    array: NDArray[Any] = images.float().cpu().numpy()
    return array
