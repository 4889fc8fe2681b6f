"""Two bounds on log p(x) of each image by many draws of z: the ELBO in its parts, and the importance-weighted bound.

Images are uint8 [N, H, W, C] on the CPU, as the model is; results are float64, nats per image. The importance-weighted
bound is that of Burda, Grosse and Salakhutdinov (2016), "Importance Weighted Autoencoders", section 3.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro.engine import Reconstructions, choose_decoder
from repro.evaluation.batches import posterior
from repro.measurement import Tell, silent
from repro.model import VAE, objective

BLOCK = 5000  # draws of z whose noise is made at once; the noise must not depend on what fits into memory
MEMORY = 32 * 2**20  # bytes of activations at once: they stay in a processor's cache, which is faster
PARTS = 10  # parts of the draws, each of which gives an estimate too, to show how much ten times the draws add
PAUSE = 10.0  # seconds between two messages on how far the computation is


@dataclass(frozen=True)
class LogPx:
    """Importance-weighted estimates of log p(x), one for each image; all [N]."""

    value: Tensor  # log of the mean weight
    standard_error: Tensor  # Monte Carlo, by the delta method: the relative standard error of the mean weight
    effective: Tensor  # effective sample size, (sum w)^2 / sum w^2, from 1 to K
    by_tenths: Tensor  # the same estimate by K/10 draws: the mean of ten, one by each tenth of the draws


@dataclass(frozen=True)
class Bound:
    """The parts of each image's negative ELBO. The KL is in closed form, and has no Monte Carlo error."""

    reconstruction: Tensor  # [N], mean over draws of z
    standard_error: Tensor  # [N], its Monte Carlo standard error
    kl_of_dimension: Tensor  # [N, D]
    mean: Tensor  # [N, D], E_q[z]

    @property
    def neg_elbo(self) -> Tensor:
        return self.reconstruction + self.kl_of_dimension.sum(1)


@torch.no_grad()
def log_px(
    model: VAE, images: Tensor, k: int, generator: torch.Generator, memory: int = MEMORY, tell: Tell = silent
) -> LogPx:
    """Estimate log p(x) by importance sampling with K draws from q(z|x): log 1/K sum p(x|z) p(z) / q(z|x).

    [N, H, W, C] -> [N]. In expectation it is a lower bound of log p(x), which rises with K (Burda et al. 2016,
    theorem 1). If the effective sample size is small, the draws miss the weights that matter most: the standard error
    is then too small, and does not tell how far the estimate is below log p(x). The difference to `by_tenths` shows how
    far it still rises. `memory` bounds the bytes of activations at once; the draws do not depend on it.
    """
    decode, found = _Decoder(model, images, k, memory), []
    for chunk in _chunks(images, k, f"log p(x), {k:,} draws each", tell):
        mean, log_variance = posterior(model, chunk)
        log_weights, zero = [], torch.zeros((), dtype=torch.float64)
        for noise in _noise(generator, k, mean):
            z = model.sample(mean, log_variance, noise)
            log_p = objective.log_normal(z.double(), zero, zero) - decode(z, chunk)
            # log q(z|x) by the noise that made z, since z is rounded where the variance is small
            log_q = objective.log_normal(noise.double(), zero, zero) - 0.5 * log_variance.double().sum(1)
            log_weights.append(log_p - log_q)
        found.append(estimates(torch.cat(log_weights)))
    return LogPx(*(torch.cat(parts) for parts in zip(*(vars(each).values() for each in found), strict=True)))


def estimates(log_weights: Tensor) -> LogPx:
    """Estimate log p(x) by the log weights of K draws. float64 [K, N]. The standard errors are NaN if K is 1."""
    k = len(log_weights)
    first, second = log_weights.logsumexp(0), (2 * log_weights).logsumexp(0)
    effective = torch.exp(2 * first - second)
    relative_variance = (k / effective - 1).clamp_min(0) / (k - 1 or math.nan)
    parts = [log_weights[part::PARTS] for part in range(min(PARTS, k))]
    by_parts = torch.stack([part.logsumexp(0) - math.log(len(part)) for part in parts])
    return LogPx(first - math.log(k), relative_variance.sqrt(), effective, by_parts.mean(0))


@torch.no_grad()
def bound(
    model: VAE, images: Tensor, draws: int, generator: torch.Generator, memory: int = MEMORY, tell: Tell = silent
) -> Bound:
    """Estimate the parts of each image's negative ELBO by `draws` of z from q(z|x). [N, H, W, C] -> [N] and [N, D].

    `memory` is as in `log_px`. With one draw the standard errors are NaN.
    """
    decode, found = _Decoder(model, images, draws, memory), []
    for chunk in _chunks(images, draws, f"ELBO, {draws:,} draws each", tell):
        mean, log_variance = posterior(model, chunk)
        noises = _noise(generator, draws, mean)
        each = torch.cat([decode(model.sample(mean, log_variance, noise), chunk) for noise in noises])
        flat = mean.double().reshape(-1, 1), log_variance.double().reshape(-1, 1)  # each dimension as a q of its own
        kl = objective.kl_to_standard_normal(*flat).view(mean.shape)
        found.append((each.mean(0), (each.var(0) / draws).sqrt(), kl, mean.double()))
    return Bound(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def draws_in(memory: int, model: VAE) -> int:
    """Return how many draws of z, 1 or more, can be decoded at once in `memory` bytes of activations."""
    numbers = 0

    def count(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal numbers
        numbers += output.numel()

    hooks = [part.register_forward_hook(count) for part in model.modules() if not list(part.children())]
    try:
        parameters = model.decode(torch.zeros((1, model.latent)))
    finally:
        for hook in hooks:
            hook.remove()
    numbers += 5 * sum(part.numel() for part in parameters)  # the pixels, and the terms of the likelihood
    return max(1, memory // (4 * numbers))


def _chunks(images: Tensor, draws: int, title: str, tell: Tell) -> Iterator[Tensor]:
    """Yield parts of the images whose draws fit into a block of noise; tell every few seconds how far it is."""
    began = told = time.monotonic()
    count = 0
    tell(f"{title}: {len(images):,} images")
    for chunk in torch.split(images, max(1, BLOCK // draws)):
        yield chunk
        count += len(chunk)
        now = time.monotonic()
        if now - told >= PAUSE:
            left = (now - began) / count * (len(images) - count)
            tell(f"{title}: {count:,} of {len(images):,} images, about {left:.0f} s left")
            told = now


class _Decoder:
    """-log p(x|z), computed in parts of equal size that `memory` bytes of activations hold."""

    def __init__(self, model: VAE, images: Tensor, draws: int, memory: int) -> None:
        block, capacity = min(draws, BLOCK), draws_in(memory, model)
        parts = math.ceil(block / capacity)  # of the draws of one image
        self.draws = math.ceil(block / parts)
        self.images = max(1, min(len(images), BLOCK // draws, capacity // self.draws))
        self.decode: Reconstructions = choose_decoder(model, self.images * self.draws)

    def __call__(self, z: Tensor, images: Tensor) -> Tensor:
        """[L, N, D], uint8 [N, H, W, C] -> float64 [L, N]"""
        x, found = images.float().div_(255), torch.empty(z.shape[:2], dtype=torch.float64)
        for first in range(0, len(x), self.images):
            some = slice(first, first + self.images)
            for start in range(0, len(z), self.draws):
                part = slice(start, start + self.draws)
                found[part, some] = self.decode(z[part, some].transpose(0, 1), x[some]).T.double()
        return found


def _noise(generator: torch.Generator, draws: int, mean: Tensor) -> Iterator[Tensor]:
    """Yield standard normal noise for so many draws, a block at a time. [N, D] -> [L, N, D] and again."""
    for start in range(0, draws, BLOCK):
        yield torch.randn((min(BLOCK, draws - start), *mean.shape), generator=generator)
