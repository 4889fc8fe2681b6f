"""Two bounds on log p(x) of each image by many draws of z: the ELBO in its parts, and the importance-weighted bound.

Images are uint8 [N, H, W, C], results float64, nats per image. The importance-weighted bound is that of Burda, Grosse
and Salakhutdinov (2016), "Importance Weighted Autoencoders", section 3.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro.engine import to_batch
from repro.model import VAE, objective
from repro.training.loop import EVALUATION_BATCH

BLOCK = 5000  # draws of z whose noise is made at once; the noise must not depend on what fits into memory
MEMORY = 16 * 2**20  # bytes of activations at once: bounded, and no more than a processor's cache, which is faster
PARTS = 10  # of the draws, each of which gives an estimate too, to see how much the tenfold of them brings
PAUSE = 10.0  # seconds between two words on how far it is

Tell = Callable[[str], None]


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
        """Negative ELBO. [N]."""
        return self.reconstruction + self.kl_of_dimension.sum(1)


class LogSums:
    """log of the sums of weights and of their squares, for each image, kept while log weights come in. float64."""

    def __init__(self, images: int) -> None:
        """No weights yet."""
        self.count = 0
        self.first = torch.full((PARTS, images), -math.inf, dtype=torch.float64)
        self.second = self.first.clone()

    def add(self, log_weights: Tensor) -> None:
        """Take in some more, in turn to each of the parts. float64 [L, N]."""
        for part in range(PARTS):
            mine = log_weights[(part - self.count) % PARTS :: PARTS]
            if len(mine):
                self.first[part] = torch.logaddexp(self.first[part], mine.logsumexp(0))
                self.second[part] = torch.logaddexp(self.second[part], (2 * mine).logsumexp(0))
        self.count += len(log_weights)

    def result(self) -> LogPx:
        """The estimates. With one weight each, the standard errors are NaN."""
        first, second = self.first.logsumexp(0), self.second.logsumexp(0)
        effective = torch.exp(2 * first - second)
        relative_variance = (self.count / effective - 1).clamp_min(0) / (self.count - 1 or math.nan)
        counts = [(self.count - part - 1) // PARTS + 1 for part in range(min(PARTS, self.count))]
        by_parts = self.first[: len(counts)] - torch.tensor(counts, dtype=torch.float64).log()[:, None]
        return LogPx(first - math.log(self.count), relative_variance.sqrt(), effective, by_parts.mean(0))


def nobody(_: str) -> None:
    """Tell nobody."""


@torch.no_grad()
def log_px(
    model: VAE, images: Tensor, k: int, generator: torch.Generator, memory: int = MEMORY, tell: Tell = nobody
) -> LogPx:
    """log p(x) by importance sampling with K draws from q(z|x): log 1/K sum p(x|z) p(z) / q(z|x). [N, H, W, C] -> [N].

    It is a lower bound of log p(x) in expectation, which rises with K (Burda et al. 2016, theorem 1). Where the
    effective sample size is small the draws miss the weights that matter most: the standard error is too small then,
    and says nothing of how far below log p(x) the estimate is. By how much it exceeds `by_tenths` shows how far it
    still rises.
    `memory` bounds the bytes of activations at once; the draws do not depend on it.
    """
    capacity, found = draws_in(memory, model), []
    pace = _Pace(f"log p(x), {k:,} draws each", len(images), tell)
    for chunk in torch.split(images, max(1, BLOCK // k)):
        x, (mean, log_variance) = _pixels(model, chunk), _posterior(model, chunk)
        sums = LogSums(len(chunk))
        for noise in _noise(generator, k, mean):
            z = model.sample(mean, log_variance, noise)
            log_p = objective.log_normal(z.double(), *_zeros(z)) - _reconstructions(model, x, z, capacity)
            # log q(z|x) by the noise that made z, since z is rounded where the variance is small
            log_q = objective.log_normal(noise.double(), *_zeros(z)) - 0.5 * log_variance.double().sum(1)
            sums.add((log_p - log_q).cpu())
        found.append(sums.result())
        pace.done(len(chunk))
    return LogPx(*(torch.cat(parts) for parts in zip(*(vars(each).values() for each in found), strict=True)))


@torch.no_grad()
def bound(
    model: VAE, images: Tensor, draws: int, generator: torch.Generator, memory: int = MEMORY, tell: Tell = nobody
) -> Bound:
    """The negative ELBO of each image with so many draws of z from q(z|x), in parts. [N, H, W, C] -> [N] and [N, D].

    `memory` is as in `log_px`. With one draw the standard errors are NaN.
    """
    capacity, found = draws_in(memory, model), []
    pace = _Pace(f"ELBO, {draws:,} draws each", len(images), tell)
    for chunk in torch.split(images, max(1, BLOCK // draws)):
        x, (mean, log_variance) = _pixels(model, chunk), _posterior(model, chunk)
        noises = _noise(generator, draws, mean)
        each = torch.cat([_reconstructions(model, x, model.sample(mean, log_variance, e), capacity) for e in noises])
        flat = mean.double().reshape(-1, 1), log_variance.double().reshape(-1, 1)  # each dimension as a q of its own
        kl = objective.kl_to_standard_normal(*flat).view(mean.shape)
        parts = each.mean(0), (each.var(0) / draws).sqrt(), kl, mean.double()
        found.append([part.cpu() for part in parts])
        pace.done(len(chunk))
    return Bound(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def draws_in(memory: int, model: VAE) -> int:
    """How many draws of z may be decoded at once, 1 or more, so that what is computed takes so many bytes or less."""
    numbers = 0

    def count(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal numbers
        numbers += output.numel()

    hooks = [part.register_forward_hook(count) for part in model.modules() if not list(part.children())]
    try:
        parameters = model.decode(torch.zeros((1, model.latent), device=_device(model)))
    finally:
        for hook in hooks:
            hook.remove()
    numbers += 5 * sum(part.numel() for part in parameters)  # the pixels, and what the likelihood makes of them
    return max(1, memory // (4 * numbers))


def _reconstructions(model: VAE, x: Tensor, z: Tensor, capacity: int) -> Tensor:
    """-log p(x|z) of draws of z, so many at once. [N, H, W, C], [L, N, D] -> float64 [L, N]."""
    found = []
    for rows in torch.split(torch.arange(z.shape[0] * z.shape[1], device=z.device), capacity):
        pixels = x[rows % len(x)].permute(0, 3, 1, 2)
        found.append(objective.reconstruction(model.decode(z.flatten(0, 1)[rows]), pixels).double())
    return torch.cat(found).view(z.shape[:2])


def _noise(generator: torch.Generator, draws: int, mean: Tensor) -> Iterator[Tensor]:
    """Standard normal noise for so many draws, a block at a time. [N, D] -> [L, N, D] and again."""
    for start in range(0, draws, BLOCK):
        yield torch.randn((min(BLOCK, draws - start), *mean.shape), generator=generator).to(mean.device)


def _posterior(model: VAE, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(z|x). [N, H, W, C] -> [N, D] twice."""
    parts = [model.encode(to_batch(chunk.to(_device(model)))) for chunk in torch.split(images, EVALUATION_BATCH)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _pixels(model: VAE, images: Tensor) -> Tensor:
    """Bytes to pixels in [0, 1], in the same order of axes."""
    return images.to(_device(model)).float().div_(255)


def _zeros(like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of N(0, I)."""
    zero = torch.zeros((), dtype=torch.float64, device=like.device)
    return zero, zero


def _device(model: VAE) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device


class _Pace:
    """Says how far a loop over images is, every few seconds."""

    def __init__(self, what: str, images: int, tell: Tell) -> None:
        self.what, self.images, self.tell, self.count = what, images, tell, 0
        self.began = self.told = time.monotonic()
        tell(f"{what}: {images:,} images")

    def done(self, images: int) -> None:
        """So many more."""
        self.count += images
        now = time.monotonic()
        if now - self.told >= PAUSE:
            left = (now - self.began) / self.count * (self.images - self.count)
            self.tell(f"{self.what}: {self.count:,} of {self.images:,} images, about {left:.0f} s left")
            self.told = now
