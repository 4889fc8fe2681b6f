"""One run from its first step to its last artifact: trains, checkpoints and tracks."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
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
from repro.model import VAE, Generator, build
from repro.randomness import stream
from repro.registry import Entry
from repro.signals import Interrupted, interruptible
from repro.spec import Experiment
from repro.tracking import names
from repro.tracking.store import folder
from repro.tracking.write import RunWriter, Status
from repro.train import adam, evaluate, to_batch, train_epoch

PICTURE_EVERY = 10  # epochs, besides the first and the last
TEST_SAMPLES = 10  # draws of z for each test image
History = list[dict[str, float]]


@dataclass(frozen=True)
class Request:
    """What to run: a registered experiment, its spec after overrides, and where and how to compute it."""

    entry: Entry
    spec: Experiment
    dataset: Dataset
    seed: int
    device: torch.device
    threads: int


@dataclass
class Summary:
    """What a run came to. Costs are nats per image; `cost` is the last epoch's training cost."""

    run_id: str
    status: Status
    experiment: str
    seed: int
    epochs: int
    cost: float | None
    test_neg_elbo: float | None
    seconds: float
    data: dict[str, Any]
    comparable: bool
    reasons: list[str] = field(default_factory=list)
    error: str | None = None
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields that `--summary` writes; `reasons` says why a run is not comparable."""
        return {key: value for key, value in asdict(self).items() if key != "exit_code"}


class Reporter(Protocol):
    """Who is told how a run goes."""

    def started(self, run_id: str, steps: int) -> None:
        """A run of that many steps in all has begun."""

    def step(self) -> None:
        """A step was trained."""

    def epoch(self, number: int, row: dict[str, float]) -> None:
        """An epoch was trained and logged."""


def not_comparable(entry: Entry, spec: Experiment, dataset: Dataset) -> list[str]:
    """Why the cost of such a run says nothing about the reported cost; empty if it does."""
    reasons = []
    if dataset.status == "stand-in":
        reasons.append("it was trained on a stand-in, not on the real data")
    if entry.spec.reported is None:
        return [*reasons, "the experiment names no reported cost"]
    if spec.training.epochs != entry.spec.reported.epoch:
        reasons.append(
            f"it has {spec.training.epochs} epochs; the reported cost is of epoch {entry.spec.reported.epoch}"
        )
    registered, values = entry.spec.flat(), spec.flat()
    changed = [key for key in sorted(registered | values) if registered.get(key) != values.get(key)]
    changed.remove("training.epochs") if "training.epochs" in changed else None
    return reasons + ([f"it overrides {', '.join(changed)}"] if changed else [])


def run(request: Request, reporter: Reporter) -> Summary:
    """Train, track and checkpoint; return what came of it, also when the run failed or was interrupted.

    Raises UsageError for a model that cannot be built and StoreError when no run can be started; anything later is in
    the summary's status and error.
    """
    began = time.perf_counter()
    torch.set_num_threads(request.threads)
    model = build(request.spec, request.seed).to(request.device)
    writer = RunWriter(request.entry.name, f"{request.entry.name} seed {request.seed}")
    work = _Work(request, model, writer, folder() / "checkpoints" / writer.run_id)
    status, error, code = "FINISHED", None, 0
    try:
        with interruptible() as check:
            work.describe()
            reporter.started(writer.run_id, request.spec.training.epochs * work.steps_per_epoch)
            work.train(reporter, check)
            work.finish()
    except Interrupted as interrupted:
        status, error, code = "KILLED", f"interrupted by {interrupted}", interrupted.exit_code
    except ReproError as failure:
        status, error, code = "FAILED", str(failure), failure.exit_code
    except BaseException as failure:
        work.close("FAILED", repr(failure))
        raise
    return work.close(status, error, code, seconds=time.perf_counter() - began)


class _Work:
    """The parts of one run that its phases share."""

    def __init__(self, request: Request, model: VAE, writer: RunWriter, checkpoints: Path) -> None:
        self.request, self.spec, self.model, self.writer = request, request.spec, model, writer
        self.checkpoints = checkpoints
        self.optimiser = adam(model, request.spec.optim)
        self.train_images = request.dataset.train.to(request.device)
        self.heldout_images = request.dataset.heldout.to(request.device)
        self.reasons = not_comparable(request.entry, request.spec, request.dataset)
        self.steps_per_epoch = len(self.train_images) // request.spec.training.batch_size
        self.history: History = []
        self.test_neg_elbo: float | None = None

    def describe(self) -> None:
        dataset, reported = self.request.dataset, self.spec.reported
        tags = provenance.describe(self.request.device) | {
            names.SIGNATURE: self.spec.signature,
            names.DATA_ORIGIN: dataset.origin,
            names.DATA_STATUS: dataset.status,
            names.DATA_FINGERPRINT: dataset.fingerprint,
            names.COMPARABLE: str(not self.reasons).lower(),
            names.NOT_COMPARABLE_BECAUSE: "; ".join(self.reasons) or "-",
        }
        if reported is not None:
            tags |= {
                names.REPORTED_COST: repr(reported.cost),
                names.REPORTED_EPOCH: str(reported.epoch),
                names.REPORTED_SOURCE: reported.source,
            }
        request = self.request
        settings = {names.SEED: str(request.seed), "threads": str(request.threads), "device": request.device.type}
        self.writer.describe(self.spec, settings, tags, dataset)

    def train(self, reporter: Reporter, check: Callable[[], None]) -> None:
        def after_step() -> None:
            reporter.step()
            check()

        epochs = self.spec.training.epochs
        self._save()
        for epoch in range(1, epochs + 1):
            began = time.perf_counter()
            costs = train_epoch(
                self.model, self.optimiser, self.train_images, self.spec, self.request.seed, epoch, after_step
            )
            seconds = time.perf_counter() - began
            heldout = evaluate(self.model, self.heldout_images, stream("heldout", self.request.seed, epoch))
            row = {
                names.COST: costs.cost,
                names.RECONSTRUCTION: costs.reconstruction,
                names.KL: costs.kl,
                names.HELDOUT_NEG_ELBO: heldout.cost,
                names.IMAGES_PER_SECOND: self.steps_per_epoch * self.spec.training.batch_size / seconds,
                names.EPOCH_SECONDS: seconds,
            }
            self.history.append(row)
            self._save()
            self.writer.metrics(row, step=epoch)
            if epoch in (1, epochs) or epoch % PICTURE_EVERY == 0:
                self._pictures(epoch)
            reporter.epoch(epoch, row)
            check()

    def finish(self) -> None:
        test = evaluate(
            self.model,
            self.request.dataset.test.to(self.request.device),
            stream("test", self.request.seed),
            TEST_SAMPLES,
        )
        self.test_neg_elbo = test.cost
        values = {
            names.TEST_NEG_ELBO: test.cost,
            names.TEST_RECONSTRUCTION: test.reconstruction,
            names.TEST_KL: test.kl,
        }
        self.writer.metrics(values, step=len(self.history))
        self.writer.tags({names.WEIGHTS_SHA256: checkpoint.digest(self.model.state_dict())})
        with tempfile.TemporaryDirectory() as scratch:
            weights = Path(scratch) / "weights.safetensors"
            checkpoint.write_tensors(weights, self.model.state_dict(), {"spec": str(self.spec.signature)})
            self.writer.file(weights)
            figure = Path(scratch) / "cost_curve.png"
            self._cost_curve().savefig(figure)
            self.writer.file(figure)
        self.writer.model(Generator(self.model).cpu(), np.zeros((2, self.spec.model.latent), np.float32), "generator")

    def close(self, status: Status, error: str | None, code: int = 1, seconds: float = 0.0) -> Summary:
        reasons = self.reasons if status == "FINISHED" else [*self.reasons, "it did not finish"]
        tags = {names.COMPARABLE: str(not reasons).lower(), names.NOT_COMPARABLE_BECAUSE: "; ".join(reasons) or "-"}
        kept = sorted(self.checkpoints.glob("epoch-*.safetensors"))[-1:]
        for path in kept:
            self.writer.file(path, "checkpoints")
        self.writer.tags(tags | ({names.ERROR: error} if error else {}))
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
            comparable=not reasons,
            reasons=reasons,
            error=error,
            exit_code=code,
        )

    def _save(self) -> None:
        state = checkpoint.snapshot(self.model, self.optimiser, self.spec, self.request.seed, self.history)
        checkpoint.save_state(state, self.checkpoints)

    @torch.no_grad()
    def _pictures(self, epoch: int) -> None:
        device = self.request.device
        z = torch.randn((100, self.spec.model.latent), generator=stream("sample grid", 0)).to(device)
        originals = to_batch(self.heldout_images[:50])
        copies = self.model.generate(self.model.encode(originals)[0])
        sheets = {
            "samples": figures.grid(_numpy(self.model.generate(z)), columns=10),
            "reconstructions": figures.pairs(_numpy(originals), _numpy(copies), columns=10),
        }
        for key, sheet in sheets.items():
            self.writer.image(sheet, key, step=epoch)

    def _cost_curve(self) -> Figure:
        reported, curve, dataset = self.spec.reported, None, self.request.dataset
        if reported is not None and reported.curve is not None:
            curve = figures.read_curve(self.request.entry.file.parent / reported.curve)
        costs = {epoch: row[names.COST] for epoch, row in enumerate(self.history, start=1)}
        title = f"{self.request.entry.name}, seed {self.request.seed}, {dataset.name} ({dataset.status})"
        return figures.cost_curve(title, {"this run": costs}, None if dataset.status == "stand-in" else curve)


def _numpy(images: Tensor) -> NDArray[np.float32]:
    return images.float().cpu().numpy()
