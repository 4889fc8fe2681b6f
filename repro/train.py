"""One step, one epoch, one evaluation. Knows nothing of tracking.

Images come as uint8 [N, H, W, C] in memory; a batch becomes float [B, C, H, W] in [0, 1]. The order of an epoch's
images and its noise depend on the seed and the epoch alone, so that any epoch can be run again.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from repro import objective
from repro.errors import ReproError
from repro.model import VAE
from repro.randomness import stream
from repro.spec import Adam, Experiment

EVALUATION_BATCH = 500


class Costs(NamedTuple):
    """Nats per image: `cost` is the negative ELBO with one noise draw (or L), split into its two parts."""

    reconstruction: float
    kl: float

    @property
    def cost(self) -> float:
        """The negative ELBO, nats per image."""
        return self.reconstruction + self.kl


class NotFiniteError(ReproError):
    """The cost of a step was NaN or infinite."""

    def __init__(self, epoch: int, step: int, costs: Costs) -> None:
        super().__init__(
            f"the cost is not finite at epoch {epoch}, step {step}: reconstruction {costs.reconstruction}, "
            f"KL {costs.kl} nats; a smaller optim.lr usually helps"
        )


def adam(model: VAE, settings: Adam) -> torch.optim.Adam:
    """The optimiser that an experiment asks for."""
    betas = (settings.beta1, settings.beta2)
    return torch.optim.Adam(model.parameters(), lr=settings.lr, betas=betas, eps=settings.epsilon, fused=True)


def to_batch(images: Tensor) -> Tensor:
    """Bytes to pixels in [0, 1]. uint8 [B, H, W, C] -> float [B, C, H, W], channels last in memory."""
    return images.float().div_(255).permute(0, 3, 1, 2)


def losses(model: VAE, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction, averaged over the L draws, and KL, nats per image. [B, C, H, W], [L, B, D] -> [B], [B]."""
    mean, log_variance = model.encode(x)
    z = model.sample(mean, log_variance, noise)
    repeated = x.expand(len(noise), *x.shape).flatten(0, 1) if len(noise) > 1 else x
    reconstruction = objective.reconstruction(model.decode(z.flatten(0, 1)), repeated)
    return reconstruction.view(noise.shape[:2]).mean(0), objective.kl_to_standard_normal(mean, log_variance)


def train_epoch(
    model: VAE,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    experiment: Experiment,
    seed: int,
    epoch: int,
    after_step: Callable[[], None] = lambda: None,
) -> Costs:
    """Train for one epoch; return the running means of the steps' costs, as the text computes its cost.

    Images left over after the last whole batch are not used in this epoch. `after_step` is called after every step and
    may raise to end the epoch. Raises NotFiniteError at the first step whose cost is not a number.
    """
    batch, device = experiment.training.batch_size, images.device
    order = epoch_order(len(images), experiment.data.shuffle, seed, epoch).to(device)
    noise = epoch_noise(len(images), experiment, seed, epoch).to(device)
    sums = torch.zeros(2, dtype=torch.float64)
    steps = len(images) // batch
    for step in range(steps):
        chosen = slice(step * batch, (step + 1) * batch)
        x = to_batch(images[order[chosen]])
        reconstruction, kl = (each.mean() for each in losses(model, x, noise[:, chosen]))
        optimiser.zero_grad(set_to_none=True)
        (reconstruction + kl).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        costs = Costs(reconstruction.item(), kl.item())
        if not math.isfinite(costs.cost):
            raise NotFiniteError(epoch, step + 1, costs)
        sums += torch.tensor(costs, dtype=torch.float64)
        after_step()
    return Costs(*(sums / steps).tolist())


def epoch_order(images: int, shuffle: bool, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch takes the training images. -> int64 [N]."""
    return torch.randperm(images, generator=stream("order", seed, epoch)) if shuffle else torch.arange(images)


def epoch_noise(images: int, experiment: Experiment, seed: int, epoch: int) -> Tensor:
    """An epoch's standard normal noise, by position in its order. -> float [L, N, D]."""
    shape = (experiment.training.samples, images, experiment.model.latent)
    return torch.randn(shape, generator=stream("noise", seed, epoch))


@torch.no_grad()
def evaluate(model: VAE, images: Tensor, generator: torch.Generator, samples: int = 1) -> Costs:
    """Mean costs of a model that stands still, each image with `samples` draws of z. uint8 [N, H, W, C] -> Costs."""
    sums = torch.zeros(2, dtype=torch.float64)
    for chunk in torch.split(images, EVALUATION_BATCH):
        x = to_batch(chunk)
        for _ in range(samples):
            noise = torch.randn((1, len(chunk), model.latent), generator=generator).to(images.device)
            sums += torch.stack([each.double().sum() for each in losses(model, x, noise)]).cpu()
    return Costs(*(sums / (len(images) * samples)).tolist())
