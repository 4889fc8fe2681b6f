"""Variance of two estimators of the encoder's gradient of the expected reconstruction, on real minibatches.

Pathwise (reparameterised, Kingma and Welling 2014) and score function (Williams 1992), one draw of z for each image.
The KL's gradient is exact, and left out. A third, for comparison, is the score function less a constant baseline, the
mean reconstruction of the minibatch's other images (Mnih and Rezende 2016, with images in the place of samples).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from repro.engine import to_batch
from repro.errors import ReproError
from repro.evaluation.bounds import Tell, nobody
from repro.findings import Findings, Row
from repro.model import VAE, objective
from repro.rng import stream

PATHWISE, SCORE, BASELINE = "pathwise", "score function", "score function with a baseline"
ESTIMATORS = (PATHWISE, SCORE, BASELINE)
VARIANCE = "(nats per image)^2"


class Trainer(Protocol):
    """What trains the model in between; see `repro.training.trainer`."""

    model: VAE
    train_images: Tensor

    def epoch(self, after_step: Callable[[], None]) -> dict[str, float]:
        """Train an epoch."""


@dataclass(frozen=True)
class Moments:
    """Of one estimator's gradient over noise draws. P is the number of the encoder's parameters."""

    mean: Tensor  # float64 [P]
    variance: float  # total: the trace of the covariance, unbiased
    along: Tensor  # float64 [draws], the draws' inner products with a given direction


@dataclass(frozen=True)
class Minibatch:
    """What the estimators' gradients of one minibatch come to, by estimator."""

    variance: dict[str, float]
    along: dict[str, Tensor]  # inner products with a pathwise mean gradient of other noise: their mean is |gradient|^2
    apart: dict[str, float]  # squared distance of the mean from the pathwise one, over what chance alone makes of it


def over_training(
    trainer: Trainer,
    final: VAE | None = None,
    final_epoch: int = 0,
    epochs: Sequence[int] = (0, 1, 3, 10),
    batches: int = 5,
    draws: int = 50,
    tell: Tell = nobody,
) -> Findings:
    """Train anew, and measure after each of `epochs`, which rise; then `final`, the same model after all its epochs.

    All of them on the same minibatches, with the same noise.
    """
    rows: list[Row] = []
    done = 0
    for epoch in epochs:
        while done < epoch:
            trainer.epoch(lambda: None)
            done += 1
        rows += at(trainer.model, trainer.train_images, epoch, batches, draws)
        tell(f"gradients measured at epoch {epoch}")
    if final is not None:
        rows += at(final, trainer.train_images, final_epoch, batches, draws)
        tell(f"gradients measured at epoch {final_epoch}")
    settings = [Row("gradient_minibatches", batches, "minibatches"), Row("gradient_draws", draws, "draws of the noise")]
    return Findings(rows + settings)


def at(
    model: VAE, images: Tensor, epoch: int, batches: int = 5, draws: int = 50, size: int = 100, seed: int = 0
) -> list[Row]:
    """Variances, their ratios and checks at one point of training, `epoch`, which is the rows' `x`. uint8 [N, H, W, C].

    Standard errors of variances and ratios are over the minibatches of `size` images. Unless an estimator is biased,
    its `gradient_difference` from the pathwise one is about 1, and its `gradient_projection` is 1 within a few standard
    errors, which are of the noise draws: the mean of g.u over that of the pathwise g.u, u being the pathwise mean
    gradient of other noise. `gradient_snr` is the length of the true gradient over the root of the total variance.
    """
    device = next(model.parameters()).device
    chosen = torch.randperm(len(images), generator=stream("gradient batches", seed))[: batches * size]
    found = [
        minibatch(model, images[part.to(images.device)].to(device), draws, seed, number)
        for number, part in enumerate(torch.split(chosen, size))
    ]
    rows = []
    signal = torch.tensor([max(float(each.along[PATHWISE].mean()), 0.0) for each in found], dtype=torch.float64)
    for name in ESTIMATORS:
        variance = torch.tensor([each.variance[name] for each in found], dtype=torch.float64)
        snr = (signal / variance).sqrt()
        rows.append(Row("gradient_variance", float(variance.mean()), VARIANCE, name, epoch, _error(variance)))
        rows.append(Row("gradient_snr", float(snr.mean()), "ratio", name, epoch, _error(snr)))
    for name in ESTIMATORS[1:]:
        ratios = torch.tensor([each.variance[name] / each.variance[PATHWISE] for each in found], dtype=torch.float64)
        quantity = "gradient_variance_ratio" if name == SCORE else "gradient_variance_ratio_with_baseline"
        rows.append(Row(quantity, float(ratios.mean()), "ratio to pathwise", "", epoch, _error(ratios)))
        apart = math.sqrt(sum(each.apart[name] for each in found) / len(found))
        rows.append(Row("gradient_difference", apart, "standard errors", name, epoch))
        rows.append(_projection(found, name, epoch))
    return rows


def minibatch(model: VAE, images: Tensor, draws: int, seed: int = 0, number: int = 0) -> Minibatch:
    """Measure all estimators, each with noise of its own, on one minibatch. uint8 [B, H, W, C].

    Raises ReproError where the encoder has no gradient, or one that is not finite.
    """
    towards = moments(model, images, PATHWISE, draws, stream("gradient direction", seed, number)).mean
    found = {
        name: moments(model, images, name, draws, stream(f"gradient {name}", seed, number), towards)
        for name in ESTIMATORS
    }
    pathwise = found[PATHWISE]
    if not 0 < pathwise.variance < math.inf:
        raise ReproError(f"the variance of the encoder's gradient is {pathwise.variance}: nothing to compare with")
    apart = {
        name: draws * float((each.mean - pathwise.mean).square().sum()) / (each.variance + pathwise.variance)
        for name, each in found.items()
    }
    variances, along = ({name: getattr(each, of) for name, each in found.items()} for of in ("variance", "along"))
    return Minibatch(variances, along, apart)


def moments(
    model: VAE, images: Tensor, estimator: str, draws: int, noise: torch.Generator, towards: Tensor | None = None
) -> Moments:
    """Moments of a minibatch's encoder gradient over noise draws. uint8 [B, H, W, C], towards [P]."""
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
    """What is differentiated: its gradient by q's parameters estimates that of the mean expected reconstruction, nats.

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


def _projection(found: list[Minibatch], name: str, epoch: int) -> Row:
    """An estimator's mean along the pathwise direction over the pathwise mean along it, over all minibatches."""
    of = {each: torch.stack([batch.along[each] for batch in found]) for each in (PATHWISE, name)}
    length = float(of[PATHWISE].mean())
    variance = sum(float(each.var(1).sum()) / each.shape[1] for each in of.values())
    error = math.sqrt(variance) / (len(found) * abs(length))
    return Row("gradient_projection", float(of[name].mean()) / length, "of the pathwise mean", name, epoch, error)


def _error(values: Tensor) -> float | None:
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None
