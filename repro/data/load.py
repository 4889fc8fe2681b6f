"""The search for a data set: in a named directory, or else in the cache, by a download, and at last the stand-in."""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from platformdirs import user_cache_path
from torch import Tensor

from repro import spec
from repro.data import stand_in
from repro.data.cifar10 import CIFAR10
from repro.data.download import download
from repro.data.files import AbsentError, Images, Labels, Pixels, Published
from repro.data.mnist import MNIST
from repro.errors import DataError, UsageError

Choice = Literal["auto", "real", "stand-in"]
Status = Literal["canonical", "unverified", "stand-in"]

log = logging.getLogger("repro.data")

PUBLISHED = {"mnist": MNIST, "cifar10": CIFAR10}
STAND_INS = {"mnist": (stand_in.MNIST, stand_in.mnist), "cifar10": (stand_in.CIFAR10, stand_in.cifar10)}


@dataclass(frozen=True)
class Dataset:
    """Images as bytes, and where they come from.

    `status` is `canonical` if every file has its published checksum, `unverified` if the files are intact but a
    checksum differs, or `stand-in`.
    """

    name: str
    origin: str  # in words
    status: Status
    fingerprint: str  # SHA-256 of the shapes and pixels of all training images (also held-out ones) and test images
    train: Tensor  # uint8 [N, H, W, C]
    heldout: Tensor  # uint8 [M, H, W, C]: `data.holdout` of the training images; if that is 0, the test images
    test: Tensor  # uint8 [K, H, W, C]
    train_labels: Tensor | None = None  # int64 [N], the classes of `train` from 0; None if the labels are not there
    heldout_labels: Tensor | None = None  # int64 [M], of `heldout`
    test_labels: Tensor | None = None  # int64 [K], of `test`


@dataclass(frozen=True)
class Finding:
    """What one step of the search finds of one data set."""

    name: str
    place: str
    status: Literal["canonical", "unverified", "stand-in", "absent", "broken", "not tried"]
    detail: str


def load(data: spec.Data, choice: Choice = "auto", data_dir: Path | None = None) -> Dataset:
    """Load a data set.

    Only `data_dir` is searched, or the directory in the environment variable REPRO_DATA_DIR, if one of them is given.
    A stand-in holds out about a tenth of its training images if `data.holdout` is not 0.

    Raises DataError if files are damaged, if the named directory lacks the data set, or if `choice` is `real` and the
    data set is found nowhere. Raises UsageError if no training images would be left.
    """
    limit = spec.DATASETS[data.name].train_images
    if data.holdout >= limit:
        raise UsageError(
            f"data.holdout={data.holdout}: should be less than {limit}, the training images of {data.name}"
        )
    found = None if choice == "stand-in" else _find(data.name, choice, data_dir)
    if found is not None:
        origin, images = found
        return _dataset(data.name, origin, images.status, (images.train, images.test), data.holdout, images.labels)
    words, make = STAND_INS[data.name]
    pixels, labels = make()
    holdout = len(pixels[0]) // 1000 * 100 if data.holdout else 0  # whole hundreds, the usual batch
    return _dataset(data.name, f"stand-in: {words}", "stand-in", pixels, holdout, labels)


def _find(name: str, choice: Choice, data_dir: Path | None) -> tuple[str, Images] | None:
    """Return the origin of the real data in words, and the images; None if the stand-in is to be used."""
    published, directory, cache = PUBLISHED[name], _named(data_dir), _cache()
    if directory is not None:
        try:
            images = _in_directory(published, directory)
        except AbsentError:
            raise DataError(
                f"{name}: not in the data directory {directory}. Looked there, and in its usual subfolders, for "
                f"{published.files}. Name a directory that holds them, name none, or choose --data stand-in."
            ) from None
        return f"directory {images.folder}", images
    tried, fetch = [], partial(download, published)
    for place, origin, look in ((f"cache {cache}", "cache", published.find), ("download", "downloaded to", fetch)):
        try:
            images = look(cache)
        except AbsentError as reason:
            tried.append(f"{place}: {reason}")
            log.info("%s: %s", name, tried[-1])
        else:
            return f"{origin} {images.folder}", images
    if choice == "real":
        raise DataError(
            "\n  ".join([f"{name}: real data found nowhere. Looked in", *tried])
            + f"\nName a directory that holds {published.files}, with --data-dir or REPRO_DATA_DIR."
        )
    return None


def survey(data_dir: Path | None = None) -> list[Finding]:
    """Return what the search would find of each data set, without a download. A damaged file is no error here."""
    directory, cache = _named(data_dir), _cache()
    findings = []
    for name, published in PUBLISHED.items():
        findings += [
            _look(name, f"directory {directory or ''}".rstrip(), partial(_in_directory, published, directory)),
            _look(name, f"cache {cache}", partial(published.find, cache)),
            Finding(name, "download", "not tried", "a survey downloads nothing"),
            Finding(name, "stand-in", "stand-in", STAND_INS[name][0]),
        ]
    return findings


def _look(name: str, place: str, find: Callable[[], Images]) -> Finding:
    try:
        found = find()
    except AbsentError as reason:
        return Finding(name, place, "absent", str(reason))
    except DataError as error:
        return Finding(name, place, "broken", str(error))
    images = f"{len(found.train):,} training and {len(found.test):,} test images"
    digest = fingerprint(found.train, found.test)[:12]
    return Finding(name, place, found.status, f"{images} in {found.folder}, fingerprint {digest}")


def _named(data_dir: Path | None) -> Path | None:
    named = data_dir or os.environ.get("REPRO_DATA_DIR")
    return Path(named).absolute() if named else None


def _cache() -> Path:
    return Path(os.environ.get("REPRO_CACHE_DIR") or user_cache_path("repro")).absolute()


def _in_directory(published: Published, directory: Path | None) -> Images:
    if directory is None:
        raise AbsentError("none named with --data-dir or REPRO_DATA_DIR")
    try:
        next(directory.iterdir(), None)
    except OSError as error:
        raise DataError(f"the data directory cannot be read ({error}). Name one that exists, or none.") from None
    return published.find(directory)


def _dataset(
    name: str, origin: str, status: Status, images: tuple[Pixels, Pixels], holdout: int,
    labels: tuple[Labels, Labels] | None,
) -> Dataset:  # fmt: skip
    at_start = spec.DATASETS[name].holdout_at == "start"
    cut = holdout if at_start else len(images[0]) - holdout
    first, rest = slice(None, cut), slice(cut, None)
    taken, kept = (first, rest) if at_start else (rest, first)

    def parts(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return train[kept], train[taken] if holdout else test, test

    pixels = parts(*(torch.from_numpy(part) for part in images))
    classes = parts(*(torch.from_numpy(part).long() for part in labels)) if labels else ()
    return Dataset(name, origin, status, fingerprint(*images), *pixels, *classes)


def fingerprint(train: Pixels, test: Pixels) -> str:
    digest = hashlib.sha256()
    for part in (train, test):
        digest.update(str(part.shape).encode())
        digest.update(part.data)
    return digest.hexdigest()
