"""The plain, obvious step: autograd and torch's own functions. What every other engine must agree with."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from repro import objective
from repro.engine.adam import Adam, load_state, named_state
from repro.engine.step import Settings, in_turn
from repro.model import VAE
from repro.spec import Experiment


def to_batch(images: Tensor) -> Tensor:
    """Bytes to pixels in [0, 1]. uint8 [B, H, W, C] -> float [B, C, H, W], channels last in memory."""
    return images.float().div_(255).permute(0, 3, 1, 2)


def losses(model: VAE, x: Tensor, noise: Tensor, mixed: bool = False) -> tuple[Tensor, Tensor]:
    """Reconstruction, averaged over the L draws, and KL, nats per image. [B, C, H, W], [L, B, D] -> [B], [B].

    With `mixed` the layers' products are in bfloat16; z and the costs stay in x's own precision.
    """
    bfloat16 = torch.autocast(x.device.type, torch.bfloat16, enabled=mixed, cache_enabled=False)
    with bfloat16:
        mean, log_variance = (each.to(x.dtype) for each in model.encode(x))
    z = model.sample(mean, log_variance, noise)
    with bfloat16:
        parameters = tuple(each.to(x.dtype) for each in model.decode(z.flatten(0, 1)))
    repeated = x.expand(len(noise), *x.shape).flatten(0, 1) if len(noise) > 1 else x
    reconstruction = objective.reconstruction(parameters, repeated)
    return reconstruction.view(noise.shape[:2]).mean(0), objective.kl_to_standard_normal(mean, log_variance)


class PlainStep:
    """Covers everything. See `Step` for the interface."""

    def __init__(self, experiment: Experiment, model: VAE, settings: Settings) -> None:
        self.settings = replace(settings, engine="plain", products="")
        self.model, self.batch_size = model, experiment.training.batch_size
        self.parameters = dict(model.named_parameters())
        values = list(self.parameters.values())
        self.adam = Adam(experiment.optim, values)
        self.steps = torch.zeros((), device=values[0].device)

    def step(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """One step. uint8 [B, H, W, C], [L, B, D] -> mean reconstruction and KL, nats per image."""
        parts = losses(self.model, to_batch(images), noise, self.settings.precision == "mixed")
        reconstruction, kl = (each.mean() for each in parts)
        gradients = torch.autograd.grad(reconstruction + kl, list(self.parameters.values()))
        self.steps += 1
        self.adam.update(gradients, self.steps)
        return reconstruction.detach(), kl.detach()

    def epoch(self, images: Tensor, order: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """An epoch, step by step; see `Step`."""
        return in_turn(self, images, order, noise, self.batch_size)

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state."""
        return named_state(list(self.parameters), self.adam.exp_avg, self.adam.exp_avg_sq, self.steps)

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put a state back."""
        load_state(self.state(), tensors)
