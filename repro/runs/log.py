"""The log of one run: description, metrics, pictures, weights and end. Nothing is logged twice to the outbox."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from shutil import copy2
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repro import images, names, provenance
from repro.data import Dataset
from repro.engine import to_batch
from repro.evaluation.likelihood import entropy_floor
from repro.model import Generator
from repro.rng import stream
from repro.runs import run_dir
from repro.runs.config import RunConfig
from repro.runs.result import not_comparable
from repro.tracking.outbox import Outbox
from repro.tracking.writer import RunWriter, comparability
from repro.training import checkpoint
from repro.training.trainer import Trainer

PICTURE_EVERY = 10  # epochs, besides the untrained model, the first and the last


class RunLog:
    """The log of one run. `writer` sends it to the tracking store."""

    def __init__(
        self, run_id: str, config: RunConfig, dataset: Dataset, trainer: Trainer, tell: Callable[[str], None]
    ) -> None:
        """Open or begin the run's outbox. `tell` is given a sentence on every trouble with the store or the disk."""
        self.run_id, self.config, self.dataset, self.trainer, self._tell = run_id, config, dataset, trainer, tell
        self.reasons = not_comparable(config.entry, config.spec, dataset, config.precision)
        self.test_neg_elbo: float | None = None
        self.outbox = Outbox(run_dir.path(run_id))
        self.writer = RunWriter(run_id, self.outbox, tell)
        self._faults: set[str] = set()  # faults of the disk that were reported

    @contextmanager
    def survive_disk_errors(self, fault: str) -> Iterator[None]:
        """Report an OSError in the block, once for each `fault`, and go on."""
        try:
            yield
            self._faults.discard(fault)
        except OSError as error:
            if fault not in self._faults:
                self._tell(f"{fault}: {error}")
            self._faults.add(fault)

    def describe(self) -> None:
        """Log settings, spec, data set, code and machine."""
        config, dataset = self.config, self.dataset
        gpu = torch.cuda.get_device_name(config.device) if config.device == "cuda" else "none"
        tags = provenance.describe(gpu) | {
            names.SIGNATURE: config.spec.signature,
            names.DATA_ORIGIN: dataset.origin,
            names.DATA_STATUS: dataset.status,
            names.DATA_FINGERPRINT: dataset.fingerprint,
        }
        if config.spec.reported:
            tags |= provenance.last_commit(config.entry.file)
        settings = {names.SEED: str(config.seed)}
        settings |= {key: str(value) or "-" for key, value in asdict(self.trainer.step.settings).items()}
        self.writer.describe(config.spec, settings, tags | comparability(self.reasons), dataset)

    def reopen(self) -> None:
        """Set the run to RUNNING again, and clear the error of an earlier attempt."""
        self.writer.status("RUNNING")
        self.writer.tags({names.ERROR: "-", names.CAUSE: "-"})

    def checkpoint(self) -> None:
        """Save a checkpoint of the trainer."""
        with self.survive_disk_errors("no checkpoint can be written, training goes on"):
            checkpoint.save_state(self.trainer.state(), run_dir.checkpoints(self.run_id))

    def metrics(self, epoch: int) -> None:
        """Log the metrics of an epoch, counted from 1."""
        if not self.outbox.has("metrics", step=epoch, group="epoch"):
            self.writer.metrics(self.trainer.history[epoch - 1], epoch, "epoch")

    def epoch(self, epoch: int) -> None:
        """Log the metrics of the epoch that was just trained, 0 before the first, and pictures of some epochs."""
        if epoch:
            self.metrics(epoch)
        drawn = epoch in (0, 1, self.config.spec.training.epochs) or epoch % PICTURE_EVERY == 0
        if drawn and not self.config.trial:
            self._pictures(epoch)

    def weights(self) -> None:
        """Log the final weights and their checksum."""
        self.writer.tags({names.WEIGHTS_SHA256: self.trainer.digest()})
        metadata = {"signature": self.config.spec.signature}
        checkpoint.write_tensors(self.outbox.files / names.WEIGHTS_FILE, self.trainer.model.state_dict(), metadata)
        self.writer.file(names.WEIGHTS_FILE)

    def test(self) -> None:
        """Measure and log the costs on the test images; log the cost curve, and the decoder as an MLflow model."""
        costs = self.trainer.test()
        self.test_neg_elbo = costs.cost
        metrics = {
            names.TEST_NEG_ELBO: costs.cost,
            names.TEST_RECONSTRUCTION: costs.reconstruction,
            names.TEST_KL: costs.kl,
            names.ENTROPY_FLOOR: entropy_floor(self.trainer.train_images),
        }
        spec = self.config.spec
        if not self.outbox.has("metrics", group="test"):
            self.writer.metrics(metrics, spec.training.epochs, "test")
        self._cost_curve("cost_curve.png")
        example = np.zeros((2, spec.model.latent), np.float32)
        self.writer.model(Generator(self.trainer.model).cpu(), example, "generator")

    def end(self, status: names.Status, reasons: tuple[str, ...], tags: dict[str, str]) -> None:
        """Log the newest checkpoint, unless the run is a trial, then why the run ended, and its status."""
        checkpoints = sorted(run_dir.checkpoints(self.run_id).glob("epoch-*.safetensors"))
        if checkpoints and not self.config.trial:
            newest = checkpoints[-1]
            with self.survive_disk_errors(f"the checkpoint {newest} cannot be logged"):
                copy2(newest, self.outbox.files / newest.name)
                self.writer.file(newest.name, "checkpoints")
        self.writer.tags(comparability(reasons) | tags)
        self.writer.status(status)

    @torch.no_grad()
    def _pictures(self, epoch: int) -> None:
        config, model = self.config, self.trainer.model
        z = torch.randn((100, config.spec.model.latent), generator=stream("samples", 0)).to(config.device)
        originals = to_batch(self.trainer.heldout_images[:50])
        copies = model.generate(model.encode(originals)[0])
        pictures = {
            "samples": images.grid(_numpy(model.generate(z)), columns=10),
            "reconstructions": images.pairs(_numpy(originals), _numpy(copies), columns=10),
        }
        for key, picture in pictures.items():
            if not self.outbox.has("image", key=key, step=epoch):
                self.writer.image(picture, key, epoch)

    def _cost_curve(self, file: str) -> None:
        config, dataset = self.config, self.dataset
        curve = None
        if config.spec.reported and dataset.status != "stand-in":
            curve = images.reported_curve(config.entry.file, config.spec.reported[-1])
        costs = {epoch: row[names.COST] for epoch, row in enumerate(self.trainer.history, start=1)}
        title = f"{config.entry.name}, seed {config.seed}, {dataset.name} ({dataset.status})"
        images.cost_curve(title, {"this run": costs}, curve).savefig(self.outbox.files / file)
        self.writer.file(file)


def _numpy(pixels: Tensor) -> NDArray[np.float32]:
    array: NDArray[Any] = pixels.float().cpu().numpy()
    return array
