"""What a model makes of many images or draws of z, computed in batches."""

import torch
from torch import Tensor

from repro.engine import to_batch
from repro.model import VAE
from repro.training.loop import EVALUATION_BATCH


@torch.no_grad()
def posterior(model: VAE, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance of q(z|x). uint8 [N, H, W, C] -> [N, D] twice."""
    parts = [model.encode(to_batch(chunk)) for chunk in torch.split(images, EVALUATION_BATCH)]
    mean, log_variance = (torch.cat(part) for part in zip(*parts, strict=True))
    return mean, log_variance


@torch.no_grad()
def generated(model: VAE, z: Tensor) -> Tensor:
    """Return the mean images of p(x|z). [N, D] -> [N, C, H, W] in [0, 1]."""
    return torch.cat([model.generate(chunk) for chunk in torch.split(z, EVALUATION_BATCH)])
