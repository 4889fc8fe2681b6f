"""Small files in the formats of MNIST and CIFAR-10, and what the tests of their readers share."""

import os
import pickle
import struct
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from repro.data import cifar10, mnist
from repro.data.files import Images
from repro.errors import DataError

TRAIN, TEST, BATCH = 20, 10, 4  # images in the small files
PARTS = {"train": slice(TRAIN), "t10k": slice(TRAIN, None)}
MNIST_GZIP = tuple(f"{part}-{kind}-ubyte.gz" for part in PARTS for kind in ("images-idx3", "labels-idx1"))

find_mnist = partial(mnist.find, train_images=TRAIN, test_images=TEST)
find_cifar = partial(cifar10.find, batch_images=BATCH)

_random = np.random.default_rng(0)
DIGITS = _random.integers(0, 256, (TRAIN + TEST, 28, 28), np.uint8)
DIGIT_LABELS = _random.integers(0, 10, TRAIN + TEST, np.uint8)
PLANES = _random.integers(0, 256, (6, BATCH, 3 * 32 * 32), np.uint8)
KINDS = _random.integers(0, 10, (6, BATCH), np.uint8)

Pack = Callable[[bytes], bytes]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def idx(values: np.ndarray) -> bytes:
    """An idx file of images [N, H, W], or of labels [N]."""
    return struct.pack(f">{1 + values.ndim}I", 2048 + values.ndim, *values.shape) + values.tobytes()


def write_mnist(folder: Path, pack: Pack = bytes, joint: str = "-", suffix: str = "", labels: bool = True) -> Path:
    for part, these in PARTS.items():
        write(folder / f"{part}-images{joint}idx3-ubyte{suffix}", pack(idx(DIGITS[these])))
        if labels:
            write(folder / f"{part}-labels{joint}idx1-ubyte{suffix}", pack(idx(DIGIT_LABELS[these])))
    return folder


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


Batch = Callable[[np.ndarray, np.ndarray], bytes]


def write_cifar(folder: Path, batch: Batch = python_2_batch) -> Path:
    suffix = ".bin" if batch is binary_batch else ""
    for name, planes, kinds in zip(cifar10.MD5, PLANES, KINDS, strict=True):
        write(folder / f"{name}{suffix}", batch(planes, kinds))
    return folder


def is_digits(found: Images) -> bool:
    return np.array_equal(np.concatenate([found.train, found.test])[..., 0], DIGITS)


def refused(find: Callable[[Path], Images], root: Path, path: Path) -> str:
    """What the error says was found, having checked that it names the file, what was expected and what to do."""
    with pytest.raises(DataError) as caught:
        find(root)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected ")
    assert "Put an intact copy in its place" in message
    return message.split(", found ", 1)[1]


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@contextmanager
def folder_with(name: str, content: bytes, fill: Callable[[Path], Path]) -> Iterator[Path]:
    """A filled folder in which one file has this content, for tests that need many."""
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder))
        write(Path(folder) / name, content)
        yield Path(folder)


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """The most bytes that were allocated at a time in the block."""
    tracemalloc.start()
    try:
        yield lambda: peak
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


@contextmanager
def without_rights_of_root() -> Iterator[None]:
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
