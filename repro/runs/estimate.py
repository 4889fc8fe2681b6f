"""How long training would take, from a few steps of it."""

import time
from dataclasses import dataclass, replace

from repro import names
from repro.data import Dataset
from repro.engine import Settings
from repro.runs.config import RunConfig
from repro.training.loop import EVALUATION_BATCH
from repro.training.trainer import Trainer

STEPS = 20


@dataclass(frozen=True)
class Estimate:
    """The steps of an epoch, its seconds with its evaluation, and how its steps would be computed."""

    steps: int
    epoch_seconds: float
    settings: Settings


def estimate(config: RunConfig, dataset: Dataset) -> Estimate:
    """Time STEPS training steps and the evaluation of a few held-out images. Nothing of it is kept."""
    batch, heldout = config.spec.training.batch_size, dataset.heldout[:EVALUATION_BATCH]
    trainer = Trainer(
        config.spec, config.seed, replace(dataset, train=dataset.train[: STEPS * batch], heldout=heldout),
        config.settings,
    )  # fmt: skip
    trainer.epoch(lambda: None)  # the first steps are slower
    began = time.perf_counter()
    training = trainer.epoch(lambda: None)[names.EPOCH_SECONDS]
    evaluating = time.perf_counter() - began - training
    steps = len(dataset.train) // batch
    seconds = training / trainer.steps_per_epoch * steps + evaluating / len(heldout) * len(dataset.heldout)
    return Estimate(steps, seconds, trainer.step.settings)
