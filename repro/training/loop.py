"""One epoch of training, and one evaluation.

Images are uint8 [N, H, W, C] in memory. The order of an epoch's images and its noise depend on the seed and the epoch
alone, so that any epoch can be run again.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from repro.engine import Step
from repro.errors import ReproError
from repro.rng import stream
from repro.spec import Data, Experiment

EVALUATION_BATCH = 500


class Costs(NamedTuple):
    """Nats per image: `cost` is the negative ELBO with one noise draw (or L), split into its two parts."""

    reconstruction: float
    kl: float

    @property
    def cost(self) -> float:
        return self.reconstruction + self.kl


class NotFiniteError(ReproError):
    def __init__(self, epoch: int, step: int, costs: Costs) -> None:
        super().__init__(
            f"the cost is not finite at epoch {epoch}, step {step}: reconstruction {costs.reconstruction}, "
            f"KL {costs.kl} nats; a smaller optim.lr usually helps"
        )


def train_epoch(
    step: Step,
    images: Tensor,
    experiment: Experiment,
    seed: int,
    epoch: int,
    after_step: Callable[[], None] = lambda: None,
) -> Costs:
    """Train for one epoch; return the running means of the steps' costs, as the notebook computes its cost.

    Images left over after the last whole batch are not used in this epoch. `after_step` is called once for every step,
    on a GPU some steps later, and may raise to end the epoch. Raises NotFiniteError naming the first step whose cost
    is not a number: after that step, on a GPU at the end of the epoch.
    """
    order = epoch_order(len(images), experiment.data, seed, epoch).to(images.device)
    noise = epoch_noise(len(images), experiment, seed, epoch).to(images.device)
    done: list[Tensor] = []
    for costs in step.epoch(images, order, noise):
        if costs.device.type == "cpu":  # reading a GPU's costs would wait for the GPU
            require_finite(costs, epoch, first=len(done) + 1)
        done.append(costs)
        for _ in range(len(costs)):
            after_step()
    every = torch.cat(done).cpu()
    require_finite(every, epoch)
    return Costs(*every.mean(0).tolist())


def require_finite(costs: Tensor, epoch: int, first: int = 1) -> None:
    """Raise NotFiniteError for the first of these costs, of step `first` and on, that is not finite. [n, 2]."""
    for number, parts in enumerate(costs.tolist(), start=first):
        if not math.isfinite(sum(parts)):
            raise NotFiniteError(epoch, number, Costs(*parts))


def epoch_order(images: int, data: Data, seed: int, epoch: int) -> Tensor:
    """Return the order in which an epoch, counted from 1, takes the training images. -> int64 [N]."""
    own = data.first_epoch if epoch == 1 else None
    shuffled = own == "shuffled" if own else data.shuffle
    return torch.randperm(images, generator=stream("order", seed, epoch)) if shuffled else torch.arange(images)


def epoch_noise(images: int, experiment: Experiment, seed: int, epoch: int) -> Tensor:
    """Return an epoch's standard normal noise, by position in its order. -> float [L, N, D]."""
    shape = (experiment.training.samples, images, experiment.model.latent)
    return torch.randn(shape, generator=stream("noise", seed, epoch))


def evaluate(step: Step, images: Tensor, generator: torch.Generator, samples: int = 1) -> Costs:
    """Return the mean costs of the present weights, with `samples` draws of z for each image. uint8 [N, H, W, C]."""
    sums = torch.zeros(2, dtype=torch.float64)
    for chunk in torch.split(images, EVALUATION_BATCH):
        for _ in range(samples):
            noise = torch.randn((1, len(chunk), step.model.latent), generator=generator).to(images.device)
            sums += step.costs(chunk, noise).cpu()
    return Costs(*(sums / (len(images) * samples)).tolist())
