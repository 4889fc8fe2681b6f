"""The KL in closed form, and as the notebook prints it, beside a Monte Carlo estimate of its definition."""

import math

import torch
from torch import Tensor

from repro.engine import to_batch
from repro.measurement import Measurement, Row
from repro.model import VAE, objective
from repro.rng import stream

NATS = "nats per image"
CHUNK = 100  # images whose draws are in memory at once


@torch.no_grad()
def formulas(model: VAE, images: Tensor, draws: int = 1000, seed: int = 0) -> Measurement:
    """Compute the mean KL(q(z|x) || N(0, I)) over images in three ways, nats per image. uint8 [N, H, W, C].

    The Monte Carlo estimate is the mean of log q(z|x) - log p(z) over `draws` of z ~ q for each image. A row
    `..._deviation` is the distance of a formula from the estimate, in the estimate's standard errors. A row
    `..._image_deviation` is the root mean square of the same over single images, where errors cannot cancel: it is
    about 1 for a formula that is right for every image.
    """
    exact, printed, estimates, errors = [], [], [], []
    generator = stream("kl", seed)
    for chunk in torch.split(images, CHUNK):
        mean, log_variance = (each.double() for each in model.encode(to_batch(chunk)))
        exact.append(objective.kl_to_standard_normal(mean, log_variance))
        printed.append(objective.kl_as_printed(mean, log_variance))
        noise = torch.randn((draws, *mean.shape), generator=generator, dtype=mean.dtype).to(mean.device)
        z, zero = VAE.sample(mean, log_variance, noise), torch.zeros_like(mean)
        log_ratio = objective.log_normal(z, mean, log_variance) - objective.log_normal(z, zero, zero)  # [draws, N]
        estimates.append(log_ratio.mean(0))
        errors.append(log_ratio.std(0) / math.sqrt(draws))
    estimate, error = torch.cat(estimates), torch.cat(errors)
    whole = float(error.square().sum().sqrt()) / len(error)
    rows = [Row("kl_monte_carlo", float(estimate.mean()), NATS, standard_error=whole)]
    for name, found in {"kl_closed_form": torch.cat(exact), "kl_as_printed": torch.cat(printed)}.items():
        off = found - estimate
        of_images = float((off / error).square().mean().sqrt())
        rows.append(Row(name, float(found.mean()), NATS))
        rows.append(Row(f"{name}_deviation", float(off.mean()) / whole, "standard errors"))
        rows.append(Row(f"{name}_image_deviation", of_images, "standard errors of an image, root mean square"))
    return Measurement([*rows, Row("kl_draws", draws, "draws of z per image"), Row("kl_images", len(images), "images")])
