"""The labels of images: which class each is of, where files of labels are at hand, and what becomes of damaged ones."""

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_files import (
    BATCH,
    PLANES,
    TEST,
    TRAIN,
    find_cifar,
    find_mnist,
    idx,
    python_2_batch,
    refused,
    write,
    write_binary,
    write_mnist,
    write_python,
)
from test_load import FILES

from repro.data import cifar10, load
from repro.spec import Data

LABELS = np.random.default_rng(1).integers(0, 10, TRAIN + TEST).astype(np.uint8)
TRAIN_FILE, TEST_FILE = "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"
KINDS = np.random.default_rng(2).integers(0, 10, (6, BATCH)).astype(np.uint8)


def write_labels(folder: Path, pack: Callable[[bytes], bytes] = bytes, joint: str = "-", suffix: str = "") -> Path:
    for part, labels in (("train", LABELS[:TRAIN]), ("t10k", LABELS[TRAIN:])):
        write(folder / f"{part}-labels{joint}idx1-ubyte{suffix}", pack(idx(labels)))
    return folder


# MNIST


@pytest.mark.parametrize("joint", ["-", "."])
@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (gzip.compress, ".gz")])
def test_mnists_labels_are_read_under_all_their_usual_names(
    tmp_path: Path, joint: str, pack: Callable[[bytes], bytes], suffix: str
) -> None:
    write_labels(write_mnist(tmp_path / "mnist"), pack, joint, suffix)
    labels = find_mnist(tmp_path).labels
    assert labels is not None
    assert np.array_equal(np.concatenate(labels), LABELS)
    assert [len(part) for part in labels] == [TRAIN, TEST]


def test_a_directory_may_hold_only_images(tmp_path: Path) -> None:
    write_labels(tmp_path)  # above, not beside them: these could be of other images
    found = find_mnist(write_mnist(tmp_path / "mnist"))
    assert found.labels is None


MNIST_FAULTS = {
    "empty": (b"", "an empty file"),
    "web page": (b"<html>", "a web page"),
    "truncated": (idx(LABELS[:TRAIN])[:-1], "27 bytes that start with"),
    "too long": (idx(LABELS[:TRAIN]) + b"\0", "29 bytes that start with"),
    "of other images": (idx(LABELS[TRAIN:]), "18 bytes that start with"),
    "images": (idx(np.zeros((TRAIN, 28, 28), np.uint8)), "29 bytes that start with"),
    "another count": (idx(LABELS[:TRAIN]).replace(bytes([TRAIN]), b"\x15", 1), "28 bytes that start with"),
    "no class": (idx(np.full(TRAIN, 10, np.uint8)), "label 10"),
    "truncated gzip": (gzip.compress(idx(LABELS[:TRAIN]))[:-4], "a truncated one"),
}


@pytest.mark.parametrize(("content", "found"), MNIST_FAULTS.values(), ids=MNIST_FAULTS)
def test_a_damaged_file_of_labels_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    write_labels(write_mnist(tmp_path))
    assert refused(find_mnist, tmp_path, write(tmp_path / TRAIN_FILE, content)).startswith(found)


def test_labels_of_one_half_of_the_images_are_refused(tmp_path: Path) -> None:
    write_labels(write_mnist(tmp_path))
    (tmp_path / TEST_FILE).unlink()
    assert refused(find_mnist, tmp_path, tmp_path / TEST_FILE).startswith("none")


# CIFAR-10


def write_kinds(folder: Path, layout: str) -> Path:
    for name, planes, kinds in zip(cifar10.MD5, PLANES, KINDS, strict=True):
        if layout == "binary":
            write(folder / f"{name}.bin", np.insert(planes, 0, kinds, axis=1).tobytes())
        elif layout == "python 3":
            write(folder / name, pickle.dumps({"data": planes, "labels": kinds.tolist()}))
        else:
            listed = b"".join(b"K" + bytes([kind]) for kind in kinds)
            write(folder / name, python_2_batch(planes).replace(b"K\x07" * BATCH, listed))
    return folder


@pytest.mark.parametrize("layout", ["binary", "python 2", "python 3"])
def test_every_layout_of_cifar_has_its_labels(tmp_path: Path, layout: str) -> None:
    labels = find_cifar(write_kinds(tmp_path, layout)).labels
    assert labels is not None
    assert np.array_equal(labels[0], KINDS[:5].flatten())
    assert np.array_equal(labels[1], KINDS[5])


CIFAR_FAULTS = {
    "none": {"data": PLANES[0]},
    "too few": {"data": PLANES[0], "labels": [1] * (BATCH - 1)},
    "no class": {"data": PLANES[0], "labels": [1] * (BATCH - 1) + [10]},
    "below zero": {"data": PLANES[0], "labels": [1] * (BATCH - 1) + [-1]},
    "fractions": {"data": PLANES[0], "labels": [1.5] * BATCH},
    "text": {"data": PLANES[0], "labels": "1" * BATCH},
    "an array": {"data": PLANES[0], "labels": KINDS[0]},
}


@pytest.mark.parametrize("batch", CIFAR_FAULTS.values(), ids=CIFAR_FAULTS)
def test_a_python_batch_with_damaged_labels_is_refused(tmp_path: Path, batch: dict[str, object]) -> None:
    path = write(write_python(tmp_path) / "data_batch_2", pickle.dumps(batch))
    assert "labels" in refused(find_cifar, tmp_path, path)


def test_labels_do_not_bear_on_the_images(tmp_path: Path) -> None:
    usual, other = find_cifar(write_binary(tmp_path / "a")), find_cifar(write_kinds(tmp_path / "b", "binary"))
    assert np.array_equal(usual.train, other.train)
    assert np.array_equal(usual.test, other.test)


# What is loaded


@pytest.mark.parametrize("holdout", [0, 5000])
def test_labels_are_split_as_their_images_are(tmp_path: Path, holdout: int) -> None:
    """Each image has the grey of its label."""
    for file, count in zip(FILES, (60_000, 60_000, 10_000, 10_000), strict=True):
        labels = (np.arange(count) % 7).astype(np.uint8)
        content = np.broadcast_to(labels[:, None, None], (count, 28, 28)) if "images" in file else labels
        write(tmp_path / file, idx(np.ascontiguousarray(content)))
    found = load(Data("mnist", holdout=holdout), "real", tmp_path)
    for images, labels in (
        (found.train, found.train_labels),
        (found.heldout, found.heldout_labels),
        (found.test, found.test_labels),
    ):
        assert labels is not None
        assert labels.dtype == torch.int64
        assert torch.equal(images[:, 13, 13, 0].long(), labels)
    for file in FILES:
        if "labels" in file:
            (tmp_path / file).unlink()
    bare = load(Data("mnist", holdout=holdout), "real", tmp_path)
    assert (bare.train_labels, bare.heldout_labels, bare.test_labels) == (None, None, None)
    assert bare.fingerprint == found.fingerprint


def test_the_stand_in_digits_have_their_labels_and_the_photographs_none() -> None:
    found = load(Data("mnist", holdout=5000), "stand-in")
    assert found.train_labels is not None
    assert found.heldout_labels is not None
    assert found.test_labels is not None
    assert [len(labels) for labels in (found.train_labels, found.heldout_labels, found.test_labels)] == [
        len(images) for images in (found.train, found.heldout, found.test)
    ]
    zeros, ones = (found.train[found.train_labels == digit].float().mean(0)[..., 0] for digit in (0, 1))
    assert zeros[14, 14] < 0.3 * ones[14, 14]  # a nought is hollow
    assert load(Data("cifar10"), "stand-in").train_labels is None
