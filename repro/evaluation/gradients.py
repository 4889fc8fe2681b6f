"""Variance of estimators of the encoder's gradient of the expected reconstruction, on real minibatches.

Pathwise (reparameterised, Kingma and Welling 2014) and score function (Williams 1992), with one draw of z for each
image. The gradient of the KL is exact and left out. For comparison, a third estimator is the score function less a
constant baseline, the mean reconstruction of the minibatch's other images (Mnih and Rezende 2016, with images in place
of samples).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.engine import to_batch
from repro.errors import ReproError
from repro.measurement import Measurement, Row, Tell, mean_row, silent
from repro.model import VAE, objective
from repro.rng import stream
from repro.training.trainer import Trainer

PATHWISE, SCORE, BASELINE = "pathwise", "score function", "score function with a baseline"
ESTIMATORS = (PATHWISE, SCORE, BASELINE)
VARIANCE = "(nats per image)^2"


@dataclass(frozen=True)
class Moments:
    """Moments of one estimator's gradient over noise draws. P is the number of the encoder's parameters."""

    mean: Tensor  # float64 [P]
    variance: float  # total: the trace of the covariance, unbiased
    along: Tensor  # float64 [draws], the draws' inner products with a given direction


def over_training(
    trainer: Trainer,
    final: VAE,
    epochs: Sequence[int] = (0, 1, 3, 10),
    batches: int = 5,
    draws: int = 50,
    tell: Tell = silent,
) -> Measurement:
    """Train anew, and measure after each of `epochs`, in rising order, and after the last epoch, on the model `final`.

    Every measurement takes the same minibatches and the same noise.
    """
    rows: list[Row] = []
    last = trainer.spec.training.epochs
    for epoch in [*(epoch for epoch in epochs if epoch < last), last]:
        while len(trainer.history) < epoch < last:
            trainer.epoch(lambda: None)
        model = final if epoch == last else trainer.model
        rows += at(model, trainer.train_images, epoch, batches, draws)
        tell(f"gradients measured at epoch {epoch}")
    rows.append(Row("gradient_minibatches", batches, "minibatches"))
    return Measurement([*rows, Row("gradient_draws", draws, "draws of the noise")])


def at(
    model: VAE, images: Tensor, epoch: int, batches: int = 5, draws: int = 50, size: int = 100, seed: int = 0
) -> list[Row]:
    """Return variances, their ratios and checks at one point of training, `epoch`, which is the rows' `x`.

    uint8 [N, H, W, C]. Standard errors of variances and ratios are over the minibatches of `size` images. Unless an
    estimator is biased, its `gradient_difference` from the pathwise one is about 1, and its `gradient_projection` is 1
    within a few standard errors, which are of the noise draws: the mean of g.u over that of the pathwise g.u, where u
    is the pathwise mean gradient of other noise. `gradient_snr` is the length of the true gradient over the root of the
    total variance.
    """
    device = next(model.parameters()).device
    chosen = torch.randperm(len(images), generator=stream("gradient batches", seed))[: batches * size]
    found = [
        minibatch(model, images[part.to(images.device)].to(device), draws, seed, number)
        for number, part in enumerate(torch.split(chosen, size))
    ]
    variance = {
        name: torch.tensor([batch[name].variance for batch in found], dtype=torch.float64) for name in ESTIMATORS
    }
    signal = torch.tensor([max(float(batch[PATHWISE].along.mean()), 0.0) for batch in found], dtype=torch.float64)
    rows = []
    for name in ESTIMATORS:
        rows.append(mean_row("gradient_variance", variance[name], VARIANCE, name, epoch))
        rows.append(mean_row("gradient_snr", (signal / variance[name]).sqrt(), "ratio", name, epoch))
    for name in ESTIMATORS[1:]:
        quantity = "gradient_variance_ratio" if name == SCORE else "gradient_variance_ratio_with_baseline"
        rows.append(mean_row(quantity, variance[name] / variance[PATHWISE], "ratio to pathwise", "", epoch))
        squared = [_difference(batch[name], batch[PATHWISE], draws) for batch in found]
        difference = math.sqrt(sum(squared) / len(squared))
        rows.append(Row("gradient_difference", difference, "standard errors", name, epoch))
        rows.append(_projection(found, name, epoch))
    return rows


def minibatch(model: VAE, images: Tensor, draws: int, seed: int = 0, number: int = 0) -> dict[str, Moments]:
    """Measure each estimator, with noise of its own, on one minibatch. uint8 [B, H, W, C].

    The direction of `Moments.along` is a pathwise mean gradient of other noise, so that the mean of the pathwise
    `along` is the squared length of the true gradient. Raises ReproError if the encoder has no gradient, or one that is
    not finite.
    """
    towards = moments(model, images, PATHWISE, draws, stream("gradient direction", seed, number)).mean
    found = {
        name: moments(model, images, name, draws, stream(f"gradient {name}", seed, number), towards)
        for name in ESTIMATORS
    }
    variance = found[PATHWISE].variance
    if not 0 < variance < math.inf:
        raise ReproError(f"the variance of the encoder's gradient is {variance}: nothing to compare with")
    return found


def moments(
    model: VAE, images: Tensor, estimator: str, draws: int, noise: torch.Generator, towards: Tensor | None = None
) -> Moments:
    """Return the moments of a minibatch's encoder gradient over noise draws. uint8 [B, H, W, C], towards [P]."""
    x = to_batch(images)
    parameters = [*model.encoder.parameters(), *model.mean_head.parameters(), *model.log_variance_head.parameters()]
    total = torch.zeros(sum(each.numel() for each in parameters), dtype=torch.float64, device=x.device)
    squares, along = 0.0, torch.zeros(draws, dtype=torch.float64)
    q = model.encode(x)
    for draw in range(draws):
        drawn = torch.randn((len(images), model.latent), generator=noise).to(x)
        mean, log_variance = (each.detach().requires_grad_() for each in q)  # the encoder is run once for all draws
        of_q = torch.autograd.grad(surrogate(model, x, mean, log_variance, drawn, estimator), (mean, log_variance))
        found = torch.autograd.grad(q, parameters, of_q, retain_graph=True)
        gradient = torch.cat([each.flatten() for each in found]).double()
        total += gradient
        squares += float(gradient @ gradient)
        along[draw] = 0.0 if towards is None else float(gradient @ towards)
    average = total / draws
    return Moments(average, (squares - draws * float(average @ average)) / (draws - 1), along)


def surrogate(model: VAE, x: Tensor, mean: Tensor, log_variance: Tensor, noise: Tensor, estimator: str) -> Tensor:
    """Return a scalar whose gradient by q's parameters estimates that of the mean expected reconstruction, nats.

    [B, C, H, W], [B, D], [B, D], [B, D] -> scalar.
    """
    z = model.sample(mean, log_variance, noise)
    if estimator == PATHWISE:
        return objective.reconstruction(model.decode(z), x).mean()
    with torch.no_grad():
        costs = objective.reconstruction(model.decode(z), x)
        if estimator == BASELINE and len(costs) > 1:
            costs = costs - (costs.sum() - costs) / (len(costs) - 1)
    return (costs * objective.log_normal(z.detach(), mean, log_variance)).mean()


def _difference(one: Moments, other: Moments, draws: int) -> float:
    """Return the squared distance of two means over its expectation for estimators with the same mean."""
    return draws * float((one.mean - other.mean).square().sum()) / (one.variance + other.variance)


def _projection(found: list[dict[str, Moments]], name: str, epoch: int) -> Row:
    """Return an estimator's mean along the pathwise direction over the pathwise mean along it, over all minibatches."""
    along = {each: torch.stack([batch[each].along for batch in found]) for each in (PATHWISE, name)}
    length = float(along[PATHWISE].mean())
    variance = sum(float(each.var(1).sum()) / each.shape[1] for each in along.values())
    error = math.sqrt(variance) / (len(found) * abs(length))
    return Row("gradient_projection", float(along[name].mean()) / length, "of the pathwise mean", name, epoch, error)
