"""The search for a data set: a named directory, the cache, a download, the embedded stand-in, in this order."""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from platformdirs import user_cache_path
from torch import Tensor

from repro import spec
from repro.data import standin
from repro.data.cifar10 import CIFAR10
from repro.data.download import download
from repro.data.files import AbsentError, Images, Labels, Pixels, Published
from repro.data.mnist import MNIST
from repro.errors import DataError, UsageError

Choice = Literal["auto", "real", "stand-in"]
Status = Literal["canonical", "unverified", "stand-in"]

log = logging.getLogger("repro.data")

PUBLISHED = {"mnist": MNIST, "cifar10": CIFAR10}
STAND_INS = {"mnist": (standin.MNIST, standin.mnist), "cifar10": (standin.CIFAR10, standin.cifar10)}


@dataclass(frozen=True)
class Dataset:
    """Images of bytes 0 to 255, and where they came from.

    `status` is `canonical` if every file has its published checksum, `unverified` if files are whole but one has not,
    or `stand-in`.
    """

    name: str
    origin: str  # in words
    status: Status
    fingerprint: str  # SHA-256 of all pixels and shapes, training images before any are held out, then test images
    train: Tensor  # uint8 [N, H, W, C]
    heldout: Tensor  # uint8 [M, H, W, C]: `data.holdout` of the training images; if that is 0, the test images
    test: Tensor  # uint8 [K, H, W, C]
    train_labels: Tensor | None = None  # int64 [N], the classes of `train` from 0; None where no labels are at hand
    heldout_labels: Tensor | None = None  # int64 [M], of `heldout`
    test_labels: Tensor | None = None  # int64 [K], of `test`


@dataclass(frozen=True)
class Finding:
    """What one place of the search order holds of one data set."""

    name: str
    place: str
    status: Literal["canonical", "unverified", "stand-in", "absent", "broken", "not tried"]
    detail: str


class _Place(NamedTuple):
    name: str
    origin: str  # goes before the folder where the data set was found
    look: Callable[[], Images]  # raises AbsentError or DataError


def load(data: spec.Data, choice: Choice = "auto", data_dir: Path | None = None) -> Dataset:
    """The images that `data` names, from the first place that has them.

    `data_dir`, or else the directory in the environment variable REPRO_DATA_DIR, is the only place that is searched if
    it is named. A stand-in holds out about a tenth of its training images if `data.holdout` is not 0.

    Raises DataError if files are broken, if a named directory does not hold the data set, or if `choice` is `real` and
    no place holds it, and UsageError if no training images would be left.
    """
    limit = spec.DATASETS[data.name].train_images
    if data.holdout >= limit:
        raise UsageError(
            f"data.holdout={data.holdout}: should be less than {limit}, the training images of {data.name}"
        )
    tried = []
    directory = _named(data_dir)
    places = _places(data.name, directory)
    for place in [] if choice == "stand-in" else places[:1] if directory else places:
        try:
            found = place.look()
        except AbsentError as reason:
            tried.append(f"{place.name}: {reason}")
            log.info("%s: %s", data.name, tried[-1])
            continue
        origin = f"{place.origin} {found.folder}"
        return _dataset(data.name, origin, found.status, (found.train, found.test), data.holdout, found.labels)
    if directory and choice != "stand-in":
        raise DataError(
            f"{data.name}: {tried[0]}. It should hold {PUBLISHED[data.name].files}; "
            "without --data-dir and REPRO_DATA_DIR the cache and a download are tried"
        )
    if choice == "real":
        raise DataError(
            "\n  ".join([f"{data.name}: real data found nowhere. Looked in", *tried])
            + f"\nName a directory that holds {PUBLISHED[data.name].files}, with --data-dir or REPRO_DATA_DIR."
        )
    words, images = STAND_INS[data.name]
    train, test = images()
    holdout = len(train) // 1000 * 100 if data.holdout else 0  # whole hundreds, the usual batch
    labels = standin.digit_labels() if data.name == "mnist" else None
    return _dataset(data.name, f"stand-in: {words}", "stand-in", (train, test), holdout, labels)


def survey(data_dir: Path | None = None) -> list[Finding]:
    """What each place of the search order holds of each data set. Downloads nothing; a broken file is a finding."""
    findings = []
    for name, (words, _) in STAND_INS.items():
        *local, remote = _places(name, _named(data_dir))
        findings += [_look(name, place) for place in local]
        findings.append(Finding(name, remote.name, "not tried", "a survey downloads nothing"))
        findings.append(Finding(name, "stand-in", "stand-in", words))
    return findings


def _look(name: str, place: _Place) -> Finding:
    try:
        found = place.look()
    except AbsentError as reason:
        return Finding(name, place.name, "absent", str(reason))
    except DataError as error:
        return Finding(name, place.name, "broken", str(error))
    images = f"{len(found.train):,} training and {len(found.test):,} test images"
    fingerprint = _fingerprint(found.train, found.test)[:12]
    return Finding(name, place.name, found.status, f"{images} in {found.folder}, fingerprint {fingerprint}")


def _named(data_dir: Path | None) -> Path | None:
    named = data_dir or os.environ.get("REPRO_DATA_DIR")
    return Path(named).absolute() if named else None


def _places(name: str, directory: Path | None) -> list[_Place]:
    published = PUBLISHED[name]
    cache = Path(os.environ.get("REPRO_CACHE_DIR") or user_cache_path("repro")).absolute()
    return [
        _Place(
            f"directory {directory}" if directory else "directory",
            "directory",
            partial(_in_directory, published, directory),
        ),
        _Place(f"cache {cache}", "cache", partial(published.find, cache)),
        _Place("download", "downloaded to", partial(download, published, cache)),
    ]


def _in_directory(published: Published, directory: Path | None) -> Images:
    if directory is None:
        raise AbsentError("none named with --data-dir or REPRO_DATA_DIR")
    try:
        next(directory.iterdir(), None)
    except OSError as error:
        raise DataError(f"the data directory cannot be read ({error}). Name one that exists, or none.") from None
    return published.find(directory)


def _dataset(
    name: str,
    origin: str,
    status: Status,
    images: tuple[Pixels, Pixels],
    holdout: int,
    labels: tuple[Labels, Labels] | None,
) -> Dataset:
    train, test = (torch.from_numpy(part) for part in images)
    of_train, of_test = (torch.from_numpy(part).long() for part in labels) if labels else (None, None)
    at_start = spec.DATASETS[name].holdout_at == "start"
    cut = holdout if at_start else len(train) - holdout
    first, rest = slice(None, cut), slice(cut, None)
    taken, kept = (first, rest) if at_start else (rest, first)
    return Dataset(
        name=name,
        origin=origin,
        status=status,
        fingerprint=_fingerprint(*images),
        train=train[kept],
        heldout=train[taken] if holdout else test,
        test=test,
        train_labels=None if of_train is None else of_train[kept],
        heldout_labels=of_train[taken] if of_train is not None and holdout else of_test,
        test_labels=of_test,
    )


def _fingerprint(train: Pixels, test: Pixels) -> str:
    digest = hashlib.sha256()
    for part in (train, test):
        digest.update(str(part.shape).encode())
        digest.update(part.data)
    return digest.hexdigest()
