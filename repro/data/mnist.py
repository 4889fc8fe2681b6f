"""MNIST from its idx files, plain or gzip. The files of labels may be missing."""

import struct
from pathlib import Path

import numpy as np

from repro.data.files import AbsentError, Images, Labels, Pixels, Published, describe, fault, locate, md5, read
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
_HEADER = struct.Struct(">4I")  # magic number, images, rows, columns
_LABEL_HEADER = struct.Struct(">2I")  # magic number, labels
_CLASSES = 10
_IMAGES, _LABELS = 2051, 2049  # magic numbers


def find(root: Path, train_images: int = TRAIN_IMAGES, test_images: int = TEST_IMAGES) -> Images:
    """Read MNIST from `root` or one of its usual subfolders: [N, 28, 28, 1] each for train and test.

    Raises AbsentError if there is none, and DataError if a file is missing, unreadable or damaged.
    """
    paths = locate(root, _FOLDERS, _FILES)
    (train, train_md5), (test, test_md5) = (
        _read(path, count) for path, count in zip(paths, (train_images, test_images), strict=True)
    )
    labels = _labels(paths[0].parent, (train_images, test_images))
    return Images(paths[0].parent, train, test, (train_md5, test_md5) == MD5, labels)


def _labels(folder: Path, counts: tuple[int, int]) -> tuple[Labels, Labels] | None:
    """Return the labels beside the images, or None if there are none. Raises DataError if they are damaged."""
    try:
        paths = locate(folder, (".",), _LABEL_FILES)
    except AbsentError:
        return None
    train, test = (_read_labels(path, count) for path, count in zip(paths, counts, strict=True))
    return train, test


def _read_labels(path: Path, count: int) -> Labels:
    expected = f"{count:,} labels below {_CLASSES} in an idx file of {_LABEL_HEADER.size + count:,} bytes"
    content = read(path, _LABEL_HEADER.size + count)
    if len(content) != _LABEL_HEADER.size + count or _LABEL_HEADER.unpack_from(content) != (_LABELS, count):
        raise fault(path, expected, describe(content))
    labels = np.frombuffer(content, np.uint8, offset=_LABEL_HEADER.size)
    if labels.max() >= _CLASSES:
        raise fault(path, expected, f"label {labels.max()}")
    return labels.copy()


def _read(path: Path, images: int) -> tuple[Pixels, str]:
    size = _HEADER.size + images * SHAPE.height * SHAPE.width
    expected = f"{images:,} images of {SHAPE.height}x{SHAPE.width} pixels in an idx file of {size:,} bytes"
    content = read(path, size)
    if len(content) < _HEADER.size:
        raise fault(path, expected, describe(content))
    magic, *declared = _HEADER.unpack_from(content)
    if magic != _IMAGES:
        raise fault(path, expected, "labels" if magic == _LABELS else describe(content))
    if declared != [images, SHAPE.height, SHAPE.width]:
        raise fault(path, expected, "a header that declares {:,} images of {}x{} pixels".format(*declared))
    if len(content) != size:
        raise fault(path, expected, "more than that" if len(content) > size else f"only {len(content):,} bytes")
    pixels = np.frombuffer(content, np.uint8, offset=_HEADER.size).reshape(images, SHAPE.height, SHAPE.width, 1)
    return pixels.copy(), md5(content)  # torch needs writable memory


def _fetch(folder: Path) -> None:
    from torchvision.datasets import MNIST as TORCHVISION  # noqa: PLC0415

    TORCHVISION(str(folder), download=True)  # compares checksums, and unpacks single files


MNIST = Published(
    name="mnist",
    files="train-images-idx3-ubyte and t10k-images-idx3-ubyte, plain or .gz",
    find=find,
    cached="MNIST/raw",
    fetch=_fetch,
)
