"""MNIST from its idx files, plain or gzip. The files of labels may be missing."""

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repro.data.files import AbsentError, Images, Labels, Published, describe, fault, locate, md5, read
from repro.spec import DATASETS

SHAPE, TRAIN_IMAGES, _ = DATASETS["mnist"]
TEST_IMAGES = 10_000
MD5 = ("6bbc9ace898e44ae57da46a324031adb", "2646ac647ad5339dbf082846283269ea")  # of the uncompressed images

_FOLDERS = (".", "MNIST/raw", "MNIST", "mnist", "mnist/raw", "raw")
_FILES = [
    [f"{part}-images{joint}idx3-ubyte{suffix}" for suffix in ("", ".gz") for joint in "-."]
    for part in ("train", "t10k")
]
_LABEL_FILES = [[name.replace("images", "labels").replace("idx3", "idx1") for name in names] for names in _FILES]
_CLASSES = 10
_MAGIC = {1: 2049, 3: 2051}  # the first number of a file, by the number of axes: 1 of labels, 3 of images


def find(root: Path, train_images: int = TRAIN_IMAGES, test_images: int = TEST_IMAGES) -> Images:
    """Read MNIST from `root` or one of its usual subfolders: [N, 28, 28, 1] each for train and test.

    Raises AbsentError if there is none, and DataError if a file is missing, unreadable or damaged.
    """
    counts, paths = (train_images, test_images), locate(root, _FOLDERS, _FILES)
    size = SHAPE.height, SHAPE.width
    images = [_read(path, (count, *size), "images of {}x{} pixels") for path, count in zip(paths, counts, strict=True)]
    train, test = (pixels[..., None] for pixels, _ in images)
    canonical = tuple(digest for _, digest in images) == MD5
    return Images(paths[0].parent, train, test, canonical, _labels(paths[0].parent, counts))


def _labels(folder: Path, counts: tuple[int, int]) -> tuple[Labels, Labels] | None:
    """Return the labels beside the images, or None if there are none. Raises DataError if they are damaged."""
    try:
        paths = locate(folder, (".",), _LABEL_FILES)
    except AbsentError:
        return None
    train, test = (_read(path, (count,), "labels")[0] for path, count in zip(paths, counts, strict=True))
    for path, labels in zip(paths, (train, test), strict=True):
        if labels.max() >= _CLASSES:
            raise fault(path, f"labels below {_CLASSES}", f"label {labels.max()}")
    return train, test


def _read(path: Path, shape: tuple[int, ...], noun: str) -> tuple[NDArray[np.uint8], str]:
    """Return the values of an idx file, and the MD5 of the file. `noun` has a place for each size but the first."""
    header = struct.Struct(f">{1 + len(shape)}I")  # magic number and shape
    size, words = header.size + math.prod(shape), "{:,} " + noun
    expected = f"{words.format(*shape)} in an idx file of {size:,} bytes"
    content = read(path, size)
    if len(content) < header.size:
        raise fault(path, expected, describe(content))
    magic, *declared = header.unpack_from(content)
    if magic != _MAGIC[len(shape)]:
        raise fault(path, expected, "labels" if magic == _MAGIC[1] else describe(content))
    if tuple(declared) != shape:
        raise fault(path, expected, f"a header that declares {words.format(*declared)}")
    if len(content) != size:
        raise fault(path, expected, "more than that" if len(content) > size else f"only {len(content):,} bytes")
    return np.frombuffer(content, np.uint8, offset=header.size).reshape(shape).copy(), md5(content)  # torch writes


def _fetch(folder: Path) -> None:
    from torchvision.datasets import MNIST as TORCHVISION  # noqa: PLC0415 - slow, for a download only

    TORCHVISION(str(folder), download=True)  # compares checksums, and unpacks single files


MNIST = Published(
    name="mnist",
    files="train-images-idx3-ubyte and t10k-images-idx3-ubyte, plain or .gz",
    find=find,
    cached="MNIST/raw",
    fetch=_fetch,
)
