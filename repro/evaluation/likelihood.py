"""Estimates of log p(x) and of the negative ELBO in its parts, entropy floors and active units of a trained model.

Images are uint8 [N, H, W, C]. Active units are as in Burda, Grosse and Salakhutdinov (2016), "Importance Weighted
Autoencoders", section 5.2.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.data import Dataset
from repro.errors import ReproError
from repro.evaluation import image_ranges
from repro.evaluation.bounds import Bound, LogPx, Tell, bound, log_px, nobody
from repro.findings import Findings, Row
from repro.model import VAE
from repro.rng import stream
from repro.training.loop import EVALUATION_BATCH

ACTIVE = 0.01  # variance over images of E_q[z_d] above which a latent dimension counts as active, as in Burda et al.
TRAIN_DRAWS = 10  # of z for each training image, of which there are tens of thousands
NATS = "nats per image"
VARIANCE = "variance over test images of E_q[z]"


@dataclass(frozen=True)
class Options:
    """How much to compute. `only` names training images, which are compared with the others."""

    samples: int = 5000  # K, draws of z for each image of log p(x)
    draws: int = 100  # of z for each test image of the ELBO
    images: int = 500  # of the first test images for log p(x)
    only: image_ranges.Ranges = ()
    seed: int = 0  # of the noise


def entropy_floor(images: Tensor) -> float:
    """Return the mean over images of the summed Bernoulli entropies of their pixels, nats. uint8 [N, H, W, C].

    No model with a Bernoulli likelihood has a lower cost on these images. The value is exact: it is computed from how
    often each of the 256 bytes occurs.
    """
    counts = torch.zeros(256, dtype=torch.float64)
    for chunk in torch.split(images, EVALUATION_BATCH):
        counts += torch.bincount(chunk.flatten(), minlength=256).double().cpu()
    return float(counts @ _entropies()) / len(images)


def image_entropies(images: Tensor) -> Tensor:
    """Return the summed Bernoulli entropies of each image's pixels, nats. uint8 [N, H, W, C] -> float64 [N]."""
    table = _entropies()
    return torch.cat([table[chunk.cpu().int()].flatten(1).sum(1) for chunk in torch.split(images, EVALUATION_BATCH)])


def evaluate(model: VAE, dataset: Dataset, options: Options, tell: Tell = nobody) -> Findings:
    """Evaluate the model on the test images and, if `options.only` names training images, on the training images.

    All values are in nats per image unless their row has another unit. Standard errors are Monte Carlo. A row named
    `..._sampling_error` is the standard error of the mean over these images for that over more images of their kind.
    `test_log_px_by_tenths` is the estimate by K/10 draws.
    Raises UsageError, before anything is computed, for ranges outside the training images, and ReproError if a number
    is not finite.
    """
    named = image_ranges.select(options.only, dataset)
    test = bound(model, dataset.test, options.draws, stream("elbo", options.seed), tell=tell)
    few = dataset.test[: options.images]
    weighted = log_px(model, few, options.samples, stream("log_px", options.seed), tell=tell)
    bernoulli = len(model.outputs) == 1
    rows = [*_elbo_rows(test, options), *_log_px_rows(weighted, test, options)]
    floors = {"train": entropy_floor(dataset.train), "test": entropy_floor(dataset.test)}
    rows += [Row("entropy_floor", value, NATS, group) for group, value in floors.items()]
    if bernoulli:
        error = _error_of_mean(test.standard_error)
        excess = float(test.neg_elbo.mean()) - floors["test"]
        rows.append(Row("test_excess_over_floor", excess, NATS, standard_error=error))
    if options.only:
        train = bound(model, dataset.train, TRAIN_DRAWS, stream("train", options.seed), tell=tell)
        rows += _training_rows(train, dataset.train, named, bernoulli)
    rows += _dimension_rows(test)
    wrong = [row.quantity for row in rows if not math.isfinite(row.value)]
    if wrong:
        raise ReproError(f"the model gives numbers that are not finite: {', '.join(dict.fromkeys(wrong))}")
    return Findings(rows)


def _elbo_rows(test: Bound, options: Options) -> Iterator[Row]:
    error = _error_of_mean(test.standard_error)
    yield Row("test_neg_elbo_many", float(test.neg_elbo.mean()), NATS, standard_error=error)
    yield Row("test_reconstruction_many", float(test.reconstruction.mean()), NATS, standard_error=error)
    yield Row("test_kl_many", float(test.kl_of_dimension.sum(1).mean()), NATS)
    yield Row("elbo_draws", options.draws, "draws of z per image")


def _log_px_rows(weighted: LogPx, test: Bound, options: Options) -> Iterator[Row]:
    count, error = len(weighted.value), _error_of_mean(weighted.standard_error)
    same = test.neg_elbo[:count]
    its_error = _error_of_mean(test.standard_error[:count])
    yield Row("test_log_px", float(weighted.value.mean()), NATS, standard_error=error)
    yield Row("test_log_px_by_tenths", float(weighted.by_tenths.mean()), NATS)
    yield from _sampling_error("test_log_px_sampling_error", weighted.value, population=len(test.mean))
    yield Row("test_effective_sample_size", float(weighted.effective.median()), "draws, median over images")
    yield Row("log_px_samples", options.samples, "draws of z per image")
    yield Row("log_px_images", count, "images, the first of the test images")
    # the claim that the ELBO is a bound is about one and the same images
    yield Row("test_neg_elbo_many", float(same.mean()), NATS, "images of log p(x)", standard_error=its_error)


def _dimension_rows(test: Bound) -> Iterator[Row]:
    variances = test.mean.var(0)
    yield Row("active_units", int((variances > ACTIVE).sum()), "units")
    yield Row("active_units_threshold", ACTIVE, VARIANCE)
    yield Row("latent_units", test.mean.shape[1], "units")
    for dimension, kl in enumerate(test.kl_of_dimension.mean(0).tolist()):
        yield Row("kl_of_dimension", kl, NATS, x=dimension)
    for dimension, variance in enumerate(variances.tolist()):
        yield Row("variance_of_mean", variance, VARIANCE, x=dimension)


def _training_rows(train: Bound, images: Tensor, named: Tensor, bernoulli: bool) -> Iterator[Row]:
    entropies = image_entropies(images)
    for group, chosen in {"named images": named, "other images": ~named, "all": torch.ones_like(named)}.items():
        cost, floor = train.neg_elbo[chosen], entropies[chosen]
        error = _error_of_mean(train.standard_error[chosen])
        yield Row("train_neg_elbo", float(cost.mean()), NATS, group, standard_error=error)
        yield from _sampling_error("train_neg_elbo_sampling_error", cost, group)
        yield Row("entropy_floor", float(floor.mean()), NATS, group)
        if bernoulli:
            yield Row("train_excess_over_floor", float((cost - floor).mean()), NATS, group, standard_error=error)
            yield from _sampling_error("train_excess_sampling_error", cost - floor, group)
        yield Row("train_images", int(chosen.sum()), "images", group)


def _error_of_mean(errors: Tensor) -> float:
    """Return the standard error of the mean of independent estimates with these standard errors. [N]."""
    return float(errors.square().sum().sqrt()) / len(errors)


def _sampling_error(quantity: str, values: Tensor, group: str = "", population: int | None = None) -> Iterator[Row]:
    """Yield the standard error of the mean of values for the mean of a population, infinite if not given. [N].

    Yields nothing for a single value.
    """
    share = len(values) / population if population else 0.0
    if len(values) > 1:
        yield Row(quantity, float(values.std()) * math.sqrt((1 - share) / len(values)), NATS, group)


def _entropies() -> Tensor:
    """Return the Bernoulli entropy of each byte / 255, nats. -> float64 [256]."""
    p = torch.arange(256, dtype=torch.float64) / 255
    entropies: Tensor = torch.special.entr(p) + torch.special.entr(1 - p)
    return entropies
