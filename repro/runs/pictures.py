"""The pictures of a run: sheets of samples and of reconstructions, and its cost curve."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repro import images, names
from repro.data import Dataset
from repro.engine import to_batch
from repro.rng import stream
from repro.runs.config import RunConfig
from repro.training.trainer import Trainer


@torch.no_grad()
def sheets(trainer: Trainer) -> dict[str, NDArray[np.uint8]]:
    """Return sheets of 100 samples and of 50 reconstructed held-out images of the present weights."""
    model = trainer.model
    originals = to_batch(trainer.heldout_images[:50])
    means = model.encode(originals)[0]
    z = torch.randn((100, means.shape[1]), generator=stream("samples", 0)).to(means.device)
    return {
        "samples": images.grid(_numpy(model.generate(z)), columns=10),
        "reconstructions": images.pairs(_numpy(originals), _numpy(model.generate(means)), columns=10),
    }


def cost_curve(config: RunConfig, dataset: Dataset, history: Sequence[dict[str, float]], file: Path) -> None:
    """Draw the cost of each epoch; on real data beside the published curve, where there is one."""
    curve = None
    if config.spec.reported and dataset.status != "stand-in" and config.entry.file.exists():
        curve = images.reported_curve(config.entry.file, config.spec.reported[-1])
    costs = {epoch: row[names.COST] for epoch, row in enumerate(history, start=1)}
    title = f"{config.entry.name}, seed {config.seed}, {dataset.name} ({dataset.status})"
    images.cost_curve(title, {"this run": costs}, curve).savefig(file)


def _numpy(pixels: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = pixels.float().cpu().numpy()
    return array
