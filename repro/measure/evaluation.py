"""What a trained model is worth beyond its training cost: a tighter bound, its parts, and what its latents carry.

Images are uint8 [N, H, W, C]. Active units are as in Burda, Grosse and Salakhutdinov (2016), "Importance Weighted
Autoencoders", section 5.2.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.data import Dataset
from repro.errors import ReproError, UsageError
from repro.measure.bounds import Bound, LogPx, Tell, bound, log_px, nobody
from repro.measure.findings import Findings, Row
from repro.model import VAE
from repro.randomness import stream
from repro.spec import DATASETS
from repro.train import EVALUATION_BATCH

ACTIVE = 0.01  # variance over images of E_q[z_d] above which a latent dimension counts as active, as in Burda et al.
TRAIN_DRAWS = 10  # of z for each training image, of which there are tens of thousands
NATS = "nats per image"
VARIANCE = "variance over test images of E_q[z]"

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Options:
    """How much to compute. `only` are ranges, both ends included, of indices into the file of training images."""

    samples: int = 5000  # K, draws of z for each image of log p(x)
    draws: int = 100  # of z for each test image of the ELBO
    images: int = 500  # of the first test images for log p(x)
    only: Ranges = ()
    seed: int = 0  # of the noise


def entropy_floor(images: Tensor) -> float:
    """Mean over images of the summed Bernoulli entropies of their pixels, nats: no Bernoulli cost of them is lower.

    Exact, from how often each of the 256 bytes occurs. uint8 [N, H, W, C].
    """
    counts = torch.zeros(256, dtype=torch.float64)
    for chunk in torch.split(images, EVALUATION_BATCH):
        counts += torch.bincount(chunk.flatten(), minlength=256).double().cpu()
    return float(counts @ _entropies()) / len(images)


def image_entropies(images: Tensor) -> Tensor:
    """Summed Bernoulli entropies of each image's pixels, nats; their mean is the entropy floor. [N, H, W, C] -> [N]."""
    table = _entropies()
    return torch.cat([table[chunk.cpu().int()].flatten(1).sum(1) for chunk in torch.split(images, EVALUATION_BATCH)])


def evaluate(model: VAE, dataset: Dataset, options: Options, tell: Tell = nobody) -> Findings:
    """All of it on the test images, and on named training images if `options.only` names some.

    Standard errors are Monte Carlo. Rows named `..._sampling_error` say how far the mean over these images may be from
    that over more of their kind. `test_log_px_by_tenths` is the estimate of K/10 draws.
    Raises UsageError for ranges that fit no training images, before anything is computed, and ReproError where a
    number is not finite.
    """
    named = named_images(options.only, dataset)
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


def named_images(only: Ranges, dataset: Dataset) -> Tensor:
    """Which training images the ranges name. -> bool [N]. Raises UsageError with every fault.

    Indices count from 0 in the files of training images, held-out ones included: MNIST's first, CIFAR-10's last.
    """
    held = 0 if dataset.heldout is dataset.test else len(dataset.heldout)
    first = held if DATASETS[dataset.name].holdout_at == "start" else 0
    last = first + len(dataset.train) - 1
    named, faults = torch.zeros(len(dataset.train), dtype=torch.bool), []
    for start, end in only:
        if not first <= start <= end <= last:
            where = f"before {first}" if first else f"after {last}"
            held_out = f"; those {where} are held out" if held else ""
            faults.append(f"--only {start}-{end}: training images have indices from {first} to {last}{held_out}")
            continue
        named[start - first : end - first + 1] = True
    if not faults and bool(named.all()):
        faults.append("--only: names all training images, and leaves none to compare them with")
    if faults:
        raise UsageError(*faults)
    return named


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
    """Standard error of a mean of independent estimates, from theirs. [N]."""
    return float(errors.square().sum().sqrt()) / len(errors)


def _sampling_error(quantity: str, values: Tensor, group: str = "", population: int | None = None) -> Iterator[Row]:
    """Standard error of the mean of two or more images' values for that of a population, endless if not given. [N]."""
    share = len(values) / population if population else 0.0
    if len(values) > 1:
        yield Row(quantity, float(values.std()) * math.sqrt((1 - share) / len(values)), NATS, group)


def _entropies() -> Tensor:
    """Bernoulli entropy of each byte / 255, nats. -> float64 [256]."""
    p = torch.arange(256, dtype=torch.float64) / 255
    entropies: Tensor = torch.special.entr(p) + torch.special.entr(1 - p)
    return entropies
