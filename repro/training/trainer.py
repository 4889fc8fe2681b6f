"""A model in training: weights, step and images on their device, epoch after epoch."""

import time
from collections.abc import Callable

import torch

from repro import names
from repro.data import Dataset
from repro.engine import Settings, choose
from repro.model import build
from repro.rng import stream
from repro.spec import Experiment
from repro.training import checkpoint
from repro.training.loop import Costs, evaluate, train_epoch

TEST_SAMPLES = 10  # draws of z for each test image


class Trainer:
    """Trains one model. `history` has each epoch's metrics, with the names of the glossary."""

    def __init__(self, spec: Experiment, seed: int, dataset: Dataset, settings: Settings) -> None:
        """Build the model with its initial weights. Raises UsageError if its layers do not fit."""
        torch.set_num_threads(settings.threads)  # the initial weights depend on it
        self.spec, self.seed, self.device = spec, seed, (device := torch.device(settings.device))
        self.model = build(spec, seed).to(device)
        self.step = choose(spec, self.model, settings)
        self.train_images, self.heldout_images = dataset.train.to(device), dataset.heldout.to(device)
        self.test_images = dataset.test
        self.steps_per_epoch = len(self.train_images) // spec.training.batch_size
        self.history: list[dict[str, float]] = []

    def epoch(self, after_step: Callable[[], None]) -> dict[str, float]:
        """Train the next epoch, measure it on the held-out images, and return its metrics, now in the history."""
        began, number = time.perf_counter(), len(self.history) + 1
        costs = train_epoch(self.step, self.train_images, self.spec, self.seed, number, after_step)
        seconds = time.perf_counter() - began
        heldout = evaluate(self.step, self.heldout_images, stream("heldout", self.seed, number))
        row = {
            names.COST: costs.cost,
            names.RECONSTRUCTION: costs.reconstruction,
            names.KL: costs.kl,
            names.HELDOUT_NEG_ELBO: heldout.cost,
            names.IMAGES_PER_SECOND: self.steps_per_epoch * self.spec.training.batch_size / seconds,
            names.EPOCH_SECONDS: seconds,
        }
        self.history.append(row)
        return row

    def test(self) -> Costs:
        """Return the costs of the present weights on the test images, nats per image."""
        return evaluate(self.step, self.test_images.to(self.device), stream("test", self.seed), TEST_SAMPLES)

    def digest(self) -> str:
        """Return the SHA-256 of the weights."""
        return checkpoint.digest(self.model.state_dict())

    def state(self) -> checkpoint.State:
        """Return the content of a checkpoint."""
        return checkpoint.snapshot(self.model, self.step.state(), self.spec, self.seed, self.history)

    def restore(self, state: checkpoint.State) -> None:
        """Go on from a checkpoint of the same spec and seed."""
        self.step.load_state(checkpoint.restore(state, self.model))
        self.history = state.history
