"""The reference step: autograd and torch's own functions. Every other engine must agree with it."""

from dataclasses import replace

import torch
from torch import Tensor

from repro.engine.adam import Adam, named_state
from repro.engine.step import Settings, Step
from repro.model import VAE, objective
from repro.spec import Experiment, Training


def to_batch(images: Tensor) -> Tensor:
    """Convert bytes to pixels in [0, 1]. uint8 [B, H, W, C] -> float [B, C, H, W], channels last in memory."""
    return images.float().div_(255).permute(0, 3, 1, 2)


def losses(model: VAE, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return reconstruction, averaged over the L draws, and KL in closed form, nats per image, however it was trained.

    [B, C, H, W], [L, B, D] -> [B], [B].
    """
    mean, log_variance = model.encode(x)
    by_draw = reconstructions(model, model.sample(mean, log_variance, noise), x)
    return by_draw.mean(0), objective.kl_to_standard_normal(mean, log_variance)


def training_losses(
    model: VAE, x: Tensor, noise: Tensor, training: Training, mixed: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return reconstruction and KL as `training` defines them, nats per image, and the loss to differentiate.

    [B, C, H, W], [L, B, D] -> [B], [B], [B]. The gradient of the loss estimates the gradient of reconstruction + KL.
    With the score function, the encoder's gradient of the reconstruction is E_q[-log p(x|z) grad log q(z|x)]. With
    `mixed`, the layers' products are in bfloat16; z and the costs keep the precision of x.
    """
    pathwise = training.estimator == "pathwise"
    bfloat16 = torch.autocast(x.device.type, torch.bfloat16, enabled=mixed, cache_enabled=False)
    with bfloat16:
        mean, log_variance = (each.to(x.dtype) for each in model.encode(x))
    z = model.sample(mean, log_variance, noise)
    z = z if pathwise else z.detach()
    with bfloat16:
        by_draw = reconstructions(model, z, x)
    kl = objective.TRAINING_KL[training.kl](mean, log_variance)
    estimate = by_draw if pathwise else by_draw + by_draw.detach() * objective.log_normal(z, mean, log_variance)
    return by_draw.mean(0), kl, estimate.mean(0) + kl


def reconstructions(model: VAE, z: Tensor, x: Tensor) -> Tensor:
    """Return -log p(x|z) of each draw of z, nats per image, in the precision of x. [L, B, D], [B, ...] -> [L, B]."""
    draws = len(z)
    parameters = tuple(each.to(x.dtype) for each in model.decode(z.flatten(0, 1)))
    with torch.autocast(x.device.type, enabled=False):
        repeated = x.expand(draws, *x.shape).flatten(0, 1) if draws > 1 else x
        return objective.reconstruction(parameters, repeated).view(draws, len(x))


@torch.no_grad()
def summed_costs(model: VAE, images: Tensor, noise: Tensor) -> Tensor:
    """Return reconstruction and KL, nats, summed over the images. uint8 [N, H, W, C], [L, N, D] -> float64 [2]."""
    return torch.stack([each.double().sum() for each in losses(model, to_batch(images), noise)])


class PlainStep(Step):
    """Covers every experiment, on any device."""

    capturable = False

    def __init__(self, experiment: Experiment, model: VAE, settings: Settings) -> None:
        self.settings = replace(settings, engine="plain", products="")
        self.model, self.training = model, experiment.training
        self.batch_size = self.training.batch_size
        self.parameters = dict(model.named_parameters())
        values = list(self.parameters.values())
        self.adam = Adam(experiment.optim, values, self.capturable)
        self.steps = torch.zeros((), device=values[0].device)

    def step(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mixed = self.settings.precision == "mixed"
        parts = training_losses(self.model, to_batch(images), noise, self.training, mixed)
        reconstruction, kl, loss = (each.mean() for each in parts)
        gradients = torch.autograd.grad(loss, list(self.parameters.values()))
        self.steps += 1
        self.adam.update(gradients, self.steps)
        return reconstruction.detach(), kl.detach()

    def costs(self, images: Tensor, noise: Tensor) -> Tensor:
        return summed_costs(self.model, images, noise)

    def state(self) -> dict[str, Tensor]:
        return named_state(list(self.parameters), self.adam.exp_avg, self.adam.exp_avg_sq, self.steps)
