"""One run from its first step to its last artifact: trains, checkpoints and tracks."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from repro import checkpoint, figures, provenance
from repro.data import Dataset
from repro.errors import ReproError
from repro.model import Generator, build
from repro.outcome import Status, Summary, not_comparable
from repro.randomness import stream
from repro.registry import Entry
from repro.signals import Interrupted, interruptible
from repro.spec import Experiment
from repro.tracking import names
from repro.tracking.store import folder
from repro.tracking.write import RunWriter
from repro.train import adam, evaluate, to_batch, train_epoch

PICTURE_EVERY = 10  # epochs, besides the untrained model, the first and the last
TEST_SAMPLES = 10  # draws of z for each test image


@dataclass(frozen=True)
class Request:
    """What to run: a registered experiment, its spec after overrides, and where and how to compute it."""

    entry: Entry
    spec: Experiment
    dataset: Dataset
    seed: int
    device: torch.device
    threads: int


class Reporter(Protocol):
    """Who is told how a run goes."""

    def started(self, run_id: str, steps: int) -> None:
        """A run of that many steps in all has begun."""

    def step(self) -> None:
        """A step was trained."""

    def epoch(self, number: int, row: dict[str, float]) -> None:
        """An epoch was trained and logged."""


def run(request: Request, reporter: Reporter) -> Summary:
    """Train, track and checkpoint; return what came of it, also when the run failed or was interrupted.

    Raises UsageError for a model that cannot be built and StoreError when no run can be started; anything later is in
    the summary's status and error.
    """
    began = time.perf_counter()
    torch.set_num_threads(request.threads)
    work = _Run(request)
    status: Status = "FINISHED"
    error, code = None, 0
    try:
        with interruptible() as check:
            work.describe()
            reporter.started(work.writer.run_id, request.spec.training.epochs * work.steps_per_epoch)
            work.train(reporter, check)
            work.finish()
    except Interrupted as interrupted:
        status, error, code = "KILLED", f"interrupted by {interrupted}", interrupted.exit_code
    except ReproError as failure:
        status, error, code = "FAILED", str(failure), failure.exit_code
    except BaseException as failure:
        work.close("FAILED", repr(failure))
        raise
    return work.close(status, error, code, time.perf_counter() - began)


class _Run:
    """A run under way: what its phases share, and the phases in their order."""

    def __init__(self, request: Request) -> None:
        self.request, self.spec = request, request.spec
        self.model = build(request.spec, request.seed).to(request.device)
        self.optimiser = adam(self.model, request.spec.optim)
        self.train_images = request.dataset.train.to(request.device)
        self.heldout_images = request.dataset.heldout.to(request.device)
        self.steps_per_epoch = len(self.train_images) // request.spec.training.batch_size
        self.reasons = not_comparable(request.entry, request.spec, request.dataset)
        self.history: list[dict[str, float]] = []  # each epoch's metrics
        self.test_neg_elbo: float | None = None
        self.writer = RunWriter(request.entry.name, f"{request.entry.name} seed {request.seed}")
        self.checkpoints = folder() / "checkpoints" / self.writer.run_id

    def describe(self) -> None:
        request, dataset, reported = self.request, self.request.dataset, self.spec.reported
        tags = provenance.describe(request.device) | {
            names.SIGNATURE: self.spec.signature,
            names.DATA_ORIGIN: dataset.origin,
            names.DATA_STATUS: dataset.status,
            names.DATA_FINGERPRINT: dataset.fingerprint,
        }
        if reported is not None:
            tags |= {
                names.REPORTED_COST: repr(reported.cost),
                names.REPORTED_EPOCH: str(reported.epoch),
                names.REPORTED_SOURCE: reported.source,
            }
        settings = {names.SEED: str(request.seed), "threads": str(request.threads), "device": request.device.type}
        self.writer.describe(self.spec, settings, tags | self._comparability(), dataset)

    def train(self, reporter: Reporter, check: Callable[[], None]) -> None:
        def after_step() -> None:
            reporter.step()
            check()

        self._checkpoint()
        self._pictures(0)
        for epoch in range(1, self.spec.training.epochs + 1):
            row = self._epoch(epoch, after_step)
            self.history.append(row)
            self._checkpoint()
            self.writer.metrics(row, step=epoch)
            if epoch in (1, self.spec.training.epochs) or epoch % PICTURE_EVERY == 0:
                self._pictures(epoch)
            reporter.epoch(epoch, row)
            check()

    def finish(self) -> None:
        images = self.request.dataset.test.to(self.request.device)
        test = evaluate(self.model, images, stream("test", self.request.seed), TEST_SAMPLES)
        self.test_neg_elbo = test.cost
        metrics = {
            names.TEST_NEG_ELBO: test.cost,
            names.TEST_RECONSTRUCTION: test.reconstruction,
            names.TEST_KL: test.kl,
        }
        self.writer.metrics(metrics, step=len(self.history))
        self.writer.tags({names.WEIGHTS_SHA256: checkpoint.digest(self.model.state_dict())})
        with tempfile.TemporaryDirectory() as scratch:
            weights, curve = Path(scratch) / "weights.safetensors", Path(scratch) / "cost_curve.png"
            checkpoint.write_tensors(weights, self.model.state_dict(), {"signature": self.spec.signature})
            self._cost_curve().savefig(curve)
            self.writer.file(weights)
            self.writer.file(curve)
        example = np.zeros((2, self.spec.model.latent), np.float32)
        self.writer.model(Generator(self.model).cpu(), example, "generator")

    def close(self, status: Status, error: str | None, code: int = 1, seconds: float = 0.0) -> Summary:
        """Set the run's end in the store and say what it came to."""
        if status != "FINISHED":
            self.reasons.append("it did not finish")
        for newest in sorted(self.checkpoints.glob("epoch-*.safetensors"))[-1:]:
            self.writer.file(newest, "checkpoints")
        self.writer.tags(self._comparability() | ({names.ERROR: error} if error else {}))
        self.writer.finish(status)
        dataset = self.request.dataset
        return Summary(
            run_id=self.writer.run_id,
            status=status,
            experiment=self.request.entry.name,
            seed=self.request.seed,
            epochs=len(self.history),
            cost=self.history[-1][names.COST] if self.history else None,
            test_neg_elbo=self.test_neg_elbo,
            seconds=seconds,
            data={
                "source": dataset.origin,
                "canonical": dataset.status == "canonical",
                "fingerprint": dataset.fingerprint,
            },
            comparable=not self.reasons,
            reasons=self.reasons,
            error=error,
            exit_code=code,
        )

    def _epoch(self, epoch: int, after_step: Callable[[], None]) -> dict[str, float]:
        began, seed = time.perf_counter(), self.request.seed
        costs = train_epoch(self.model, self.optimiser, self.train_images, self.spec, seed, epoch, after_step)
        seconds = time.perf_counter() - began
        heldout = evaluate(self.model, self.heldout_images, stream("heldout", seed, epoch))
        return {
            names.COST: costs.cost,
            names.RECONSTRUCTION: costs.reconstruction,
            names.KL: costs.kl,
            names.HELDOUT_NEG_ELBO: heldout.cost,
            names.IMAGES_PER_SECOND: self.steps_per_epoch * self.spec.training.batch_size / seconds,
            names.EPOCH_SECONDS: seconds,
        }

    def _checkpoint(self) -> None:
        state = checkpoint.snapshot(self.model, self.optimiser, self.spec, self.request.seed, self.history)
        checkpoint.save_state(state, self.checkpoints)

    @torch.no_grad()
    def _pictures(self, epoch: int) -> None:
        z = torch.randn((100, self.spec.model.latent), generator=stream("samples", 0)).to(self.request.device)
        originals = to_batch(self.heldout_images[:50])
        copies = self.model.generate(self.model.encode(originals)[0])
        self.writer.image(figures.grid(_numpy(self.model.generate(z)), columns=10), "samples", epoch)
        self.writer.image(figures.pairs(_numpy(originals), _numpy(copies), columns=10), "reconstructions", epoch)

    def _cost_curve(self) -> Figure:
        entry, reported, dataset = self.request.entry, self.spec.reported, self.request.dataset
        curve = None
        if reported is not None and reported.curve is not None and dataset.status != "stand-in":
            curve = figures.read_curve(entry.file.parent / reported.curve)
        costs = {epoch: row[names.COST] for epoch, row in enumerate(self.history, start=1)}
        title = f"{entry.name}, seed {self.request.seed}, {dataset.name} ({dataset.status})"
        return figures.cost_curve(title, {"this run": costs}, curve)

    def _comparability(self) -> dict[str, str]:
        reasons = "; ".join(self.reasons) or "-"
        return {names.COMPARABLE: str(not self.reasons).lower(), names.NOT_COMPARABLE_BECAUSE: reasons}


def _numpy(images: Tensor) -> NDArray[np.float32]:
    array: NDArray[Any] = images.float().cpu().numpy()
    return array
