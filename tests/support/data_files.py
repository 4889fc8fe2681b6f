"""Small files in the formats of MNIST and CIFAR-10."""

import gzip
import pickle
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from repro.data import cifar10, mnist

TRAIN, TEST, BATCH = 20, 10, 4  # images in the small files
IMAGES, TEST_IMAGES = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"
LABELS, TEST_LABELS = "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"

find_mnist = partial(mnist.find, train_images=TRAIN, test_images=TEST)
find_cifar = partial(cifar10.find, batch_images=BATCH)

_random = np.random.default_rng(0)
DIGITS = _random.integers(0, 256, (TRAIN + TEST, 28, 28), np.uint8)
DIGIT_LABELS = _random.integers(0, 10, TRAIN + TEST, np.uint8)
DIGITS[:, 13, 13] = DIGIT_LABELS  # so that a test can tell which label an image has
PLANES = _random.integers(0, 256, (6, BATCH, 3 * 32 * 32), np.uint8)
KINDS = _random.integers(0, 10, (6, BATCH), np.uint8)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def idx(values: np.ndarray) -> bytes:
    """An idx file of images [N, H, W], or of labels [N]."""
    return struct.pack(f">{1 + values.ndim}I", 2048 + values.ndim, *values.shape) + values.tobytes()


MNIST_FILES = {
    IMAGES: idx(DIGITS[:TRAIN]),
    LABELS: idx(DIGIT_LABELS[:TRAIN]),
    TEST_IMAGES: idx(DIGITS[TRAIN:]),
    TEST_LABELS: idx(DIGIT_LABELS[TRAIN:]),
}
MNIST_GZIP = tuple(f"{name}.gz" for name in MNIST_FILES)


def write_mnist(
    folder: Path, pack: Callable[[bytes], bytes] = bytes, joint: str = "-", suffix: str = "", kind: str = ""
) -> Path:
    """Write MNIST's files, or only those with `kind`, images or labels, in their names. Return the folder."""
    for name, content in MNIST_FILES.items():
        if kind in name:
            write(folder / f"{name.replace('-idx', f'{joint}idx')}{suffix}", pack(content))
    return folder


write_gzip = partial(write_mnist, pack=gzip.compress, suffix=".gz")
"""Write MNIST's files as they are published."""


def python_2_batch(planes: np.ndarray, kinds: np.ndarray = KINDS[0]) -> bytes:
    """A batch as python 2 and numpy 1 pickled it, which is how CIFAR-10 was published."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08("
        + b"K\x01" + b"J" + struct.pack("<i", planes.shape[0]) + b"M" + struct.pack("<H", planes.shape[1]) + b"\x86"
        + b"cnumpy\ndtype\nq\x09U\x02u1K\x00K\x01\x87Rq\x0a(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89T" + struct.pack("<i", planes.size) + planes.tobytes() + b"tb"
    )  # fmt: skip
    labels = b"U\x06labelsq\x02]q\x03(" + b"".join(b"K" + bytes([kind]) for kind in kinds) + b"e"
    return b"\x80\x02}q\x01(" + labels + b"U\x04dataq\x05" + array + b"u."


def python_3_batch(planes: np.ndarray, kinds: np.ndarray = KINDS[0], protocol: int = 4) -> bytes:
    return pickle.dumps({"labels": kinds.tolist(), "data": planes}, protocol)


def binary_batch(planes: np.ndarray, kinds: np.ndarray = KINDS[0]) -> bytes:
    return np.insert(planes, 0, kinds, axis=1).tobytes()


def write_cifar(folder: Path, batch: Callable[[np.ndarray, np.ndarray], bytes] = python_2_batch) -> Path:
    suffix = ".bin" if batch is binary_batch else ""
    for name, planes, kinds in zip(cifar10.MD5, PLANES, KINDS, strict=True):
        write(folder / f"{name}{suffix}", batch(planes, kinds))
    return folder
