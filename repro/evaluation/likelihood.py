"""Estimates of log p(x) and of the negative ELBO in its parts, entropy floors and active units of a trained model.

Images are uint8 [N, H, W, C]. Active units are as in Burda, Grosse and Salakhutdinov (2016), "Importance Weighted
Autoencoders", section 5.2.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from repro import names
from repro.data import Dataset
from repro.errors import ReproError, UsageError
from repro.evaluation import Ranges
from repro.evaluation.bounds import Bound, LogPx, bound, log_px
from repro.measurement import Measurement, Row, Tell, silent
from repro.model import VAE
from repro.rng import stream
from repro.spec import DATASETS, Experiment
from repro.training.loop import EVALUATION_BATCH

TRAIN_DRAWS = 10  # of z for each training image, of which there are tens of thousands
NATS = "nats per image"
VARIANCE = "variance over test images of E_q[z]"


@dataclass(frozen=True)
class Options:
    """How much to compute. `only` names training images, which are compared with the others."""

    samples: int = 5000  # K, draws of z for each image of log p(x)
    draws: int = 100  # of z for each test image of the ELBO
    images: int = 1000  # of the first test images for log p(x)
    only: Ranges = ()
    seed: int = 0  # of the noise


def named_images(ranges: Ranges, dataset: Dataset) -> Tensor:
    """Return a mask of the training images that the ranges name. -> bool [N].

    Indices count from 0 in the file of training images. The file also has the held-out images: MNIST's are its first,
    CIFAR-10's its last. Raises UsageError with every fault.
    """
    held_out = 0 if dataset.heldout is dataset.test else len(dataset.heldout)
    first = held_out if DATASETS[dataset.name].holdout_at == "start" else 0
    last = first + len(dataset.train) - 1
    where = f"before {first}" if first else f"after {last}"
    remark = f"; those {where} are held out" if held_out else ""
    named, faults = torch.zeros(len(dataset.train), dtype=torch.bool), []
    for start, end in ranges:
        if first <= start <= end <= last:
            named[start - first : end - first + 1] = True
        else:
            faults.append(f"--only {start}-{end}: training images have indices from {first} to {last}{remark}")
    if not faults and bool(named.all()):
        faults.append("--only: names all training images, and leaves none to compare them with")
    if faults:
        raise UsageError(*faults)
    return named


def entropy_floor(images: Tensor) -> float:
    """Return the mean over images of the summed Bernoulli entropies of their pixels, nats. uint8 [N, H, W, C].

    No model with a Bernoulli likelihood has a lower cost on these images. The value is exact: it is computed from how
    often each of the 256 bytes occurs.
    """
    counts = torch.bincount(images.flatten(), minlength=256)
    return float(counts.double().cpu() @ _entropies()) / len(images)


def image_entropies(images: Tensor) -> Tensor:
    """Return the summed Bernoulli entropies of each image's pixels, nats. uint8 [N, H, W, C] -> float64 [N]."""
    table = _entropies()
    return torch.cat([table[chunk.cpu().int()].flatten(1).sum(1) for chunk in torch.split(images, EVALUATION_BATCH)])


def evaluate(model: VAE, dataset: Dataset, options: Options, tell: Tell = silent) -> Measurement:
    """Evaluate the model on the test images and, if `options.only` names training images, on the training images.

    All values are in nats per image unless their row has another unit. Standard errors are Monte Carlo. A row named
    `..._sampling_error` is the standard error of the mean over these images for that over more images of their kind.
    `test_log_px_by_tenths` is the estimate by K/10 draws.
    Raises UsageError, before anything is computed, for ranges outside the training images, and ReproError if a number
    is not finite.
    """
    named = named_images(options.only, dataset)
    test = bound(model, dataset.test, options.draws, stream("elbo", options.seed), tell=tell)
    few = dataset.test[: options.images]
    weighted = log_px(model, few, options.samples, stream("log_px", options.seed), tell=tell)
    floors = {"train": entropy_floor(dataset.train), "test": entropy_floor(dataset.test)}
    bernoulli = len(model.outputs) == 1
    rows = [
        _mean("test_neg_elbo_many", test.neg_elbo, test.standard_error),
        _mean("test_reconstruction_many", test.reconstruction, test.standard_error),
        _mean("test_kl_many", test.kl_of_dimension.sum(1)),
        Row("elbo_draws", options.draws, "draws of z per image"),
        *_log_px_rows(weighted, test, options),
        *(Row("entropy_floor", value, NATS, group) for group, value in floors.items()),
    ]
    if bernoulli:
        rows.append(_mean("test_excess_over_floor", test.neg_elbo - floors["test"], test.standard_error))
    if options.only:
        train = bound(model, dataset.train, TRAIN_DRAWS, stream("train", options.seed), tell=tell)
        rows += _training_rows(train, dataset.train, named, bernoulli)
    rows += _dimension_rows(test)
    wrong = [row.quantity for row in rows if not math.isfinite(row.value)]
    if wrong:
        raise ReproError(f"the model gives numbers that are not finite: {', '.join(dict.fromkeys(wrong))}")
    return Measurement(rows)


def caveats(spec: Experiment, measurement: Measurement) -> str:
    """Return sentences that must be printed beside the log p(x) of an evaluation."""
    value = {row.quantity: row.value for row in measurement.rows if not row.group}
    log_px, by_tenths = value["test_log_px"], value["test_log_px_by_tenths"]
    if spec.model.likelihood == "bernoulli":
        scale = (
            'On grey pixels the Bernoulli "log p(x)" is not a likelihood of binary data, nor a density: it is not '
            "comparable with tables for binarised MNIST."
        )
    else:
        scale = (
            "The Gaussian log p(x) is a density of pixels in [0, 1], which are bytes and were not dequantised: compare "
            "it with models of the same pixels only."
        )
    return (
        f"log p(x) is a lower bound in expectation, by K = {value['log_px_samples']:,} draws of z each. K/10 give "
        f"{by_tenths:.2f}: the {log_px - by_tenths:.2f} nats between them, not +-, show how far it still rises with K. "
        f"{scale}"
    )


def _log_px_rows(weighted: LogPx, test: Bound, options: Options) -> Iterator[Row]:
    count = len(weighted.value)
    yield _mean("test_log_px", weighted.value, weighted.standard_error)
    yield _mean("test_log_px_by_tenths", weighted.by_tenths)
    yield from _sampling_error("test_log_px_sampling_error", weighted.value, population=len(test.mean))
    yield Row("test_effective_sample_size", float(weighted.effective.median()), "draws, median over images")
    yield Row("log_px_samples", options.samples, "draws of z per image")
    yield Row("log_px_images", count, "images, the first of the test images")
    # to compare log p(x) with the ELBO of the same images
    yield _mean("test_neg_elbo_many", test.neg_elbo[:count], test.standard_error[:count], "images of log p(x)")


def _dimension_rows(test: Bound) -> Iterator[Row]:
    variances = test.mean.var(0)
    yield Row("active_units", int((variances > names.ACTIVE_VARIANCE).sum()), "units")
    yield Row("active_units_threshold", names.ACTIVE_VARIANCE, VARIANCE)
    yield Row("latent_units", test.mean.shape[1], "units")
    for dimension, kl in enumerate(test.kl_of_dimension.mean(0).tolist()):
        yield Row("kl_of_dimension", kl, NATS, x=dimension)
    for dimension, variance in enumerate(variances.tolist()):
        yield Row("variance_of_mean", variance, VARIANCE, x=dimension)


def _training_rows(train: Bound, images: Tensor, named: Tensor, bernoulli: bool) -> Iterator[Row]:
    entropies = image_entropies(images)
    for group, chosen in {"named images": named, "other images": ~named, "all": torch.ones_like(named)}.items():
        cost, error, floor = train.neg_elbo[chosen], train.standard_error[chosen], entropies[chosen]
        yield _mean("train_neg_elbo", cost, error, group)
        yield from _sampling_error("train_neg_elbo_sampling_error", cost, group)
        yield _mean("entropy_floor", floor, group=group)
        if bernoulli:
            yield _mean("train_excess_over_floor", cost - floor, error, group)
            yield from _sampling_error("train_excess_sampling_error", cost - floor, group)
        yield Row("train_images", int(chosen.sum()), "images", group)


def _mean(quantity: str, values: Tensor, errors: Tensor | None = None, group: str = "") -> Row:
    """Return the mean of independent estimates, nats per image, and its error from their standard errors. [N], [N]."""
    error = None if errors is None else float(errors.square().sum().sqrt()) / len(errors)
    return Row(quantity, float(values.mean()), NATS, group, standard_error=error)


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
