"""The search for a data set: its order, what it says it used, what is held out, the stand-ins, and the survey."""

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from support.data_files import IMAGES, TRAIN, write, write_cifar, write_gzip, write_mnist

from repro.data import Choice, load, stand_in, survey
from repro.data.load import fingerprint
from repro.errors import DataError, UsageError
from repro.spec import Data

DATA = Data("mnist")


def test_without_a_named_directory_the_cache_goes_before_a_download_and_that_before_the_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, mirror: Callable[[Path], None]
) -> None:
    assert load(DATA).origin == f"stand-in: {stand_in.MNIST}"
    mirror(write_gzip(tmp_path / "mirror"))
    assert load(DATA).origin == f"downloaded to {cache}/MNIST/raw"
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [])
    assert load(DATA, "real").origin == f"cache {cache}/MNIST/raw"
    assert load(DATA, "stand-in").status == "stand-in"


def test_a_named_directory_goes_before_the_variable_and_is_reported_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_mnist(tmp_path / "first")
    content = bytearray((first / IMAGES).read_bytes())
    content[-1] ^= 1
    write(write_mnist(tmp_path / "second") / IMAGES, bytes(content))
    (tmp_path / "here").symlink_to(tmp_path / "second")
    monkeypatch.setenv("REPRO_DATA_DIR", str(first))
    by_variable, named = load(DATA), load(DATA, data_dir=Path("here"))
    assert by_variable.origin == f"directory {first}"
    assert (named.origin, named.status) == (f"directory {tmp_path}/here", "unverified")
    assert load(DATA, "real", tmp_path / "second").fingerprint == named.fingerprint != by_variable.fingerprint
    assert load(DATA, "stand-in", first).status == "stand-in"


REFUSED = [
    ("mnist", "auto", "missing", "No such file.*{0}/missing"),
    ("mnist", "auto", "file", "Not a directory.*{0}/file"),
    ("mnist", "auto", "empty", "^mnist: not in the data directory {0}/empty\\b.*train-images-idx3-ubyte"),
    ("cifar10", "real", "empty", "^cifar10: not in the data directory {0}/empty\\b.*cifar-10-batches-py"),
    ("mnist", "auto", "broken", "^{0}/broken/mnist/train-images-idx3-ubyte: "),
    ("mnist", "auto", None, "^{0}/cache/mnist/train-images-idx3-ubyte: "),
    (
        "cifar10",
        "real",
        None,
        "^cifar10: .*\n  cache {0}/cache: .*\n  download: .*OFFLINE\n.*-batches-py.*REPRO_DATA_DIR",
    ),
]


@pytest.mark.parametrize(("name", "choice", "folder", "said"), REFUSED)
@pytest.mark.parametrize("by_variable", [False, True])
def test_a_named_directory_without_intact_data_and_a_broken_cache_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, choice: Choice, folder: str | None, said: str,
    by_variable: bool,
) -> None:  # fmt: skip
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for broken in ("broken", "cache"):  # where a directory is named, nobody looks into the cache
        write(write_mnist(tmp_path / broken / "mnist") / IMAGES, b"broken")
    if by_variable and folder:
        monkeypatch.setenv("REPRO_DATA_DIR", folder)
    named = tmp_path / folder if folder and not by_variable else None
    with pytest.raises(DataError, match=said.format(re.escape(str(tmp_path)))):
        load(Data(name), choice, named)  # type: ignore[arg-type]
    assert load(Data(name), "stand-in", named).status == "stand-in"  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "make"), [("mnist", write_mnist), ("cifar10", write_cifar)])
def test_the_first_images_of_mnist_and_the_last_of_cifar_are_held_out_with_their_labels(
    tmp_path: Path, name: str, make: Callable[[Path], Path]
) -> None:
    whole, split = (load(Data(name, holdout=n), data_dir=make(tmp_path)) for n in (0, 5))  # type: ignore[arg-type]
    assert (len(split.heldout), len(split.train)) == (5, TRAIN - 5)
    for labels in ("", "_labels"):
        train, heldout, test, all_of_them = (
            getattr(found, part + labels)
            for found, part in ((split, "train"), (split, "heldout"), (split, "test"), (whole, "train"))
        )
        assert torch.equal(torch.cat([heldout, train] if name == "mnist" else [train, heldout]), all_of_them)
        assert torch.equal(getattr(whole, "heldout" + labels), test)
    if name == "mnist":  # an image has its label in a pixel
        assert torch.equal(split.train[:, 13, 13, 0].long(), split.train_labels)
        write_mnist(tmp_path / "bare", kind="images")
        bare = load(DATA, data_dir=tmp_path / "bare")
        assert (bare.train_labels, bare.heldout_labels, bare.test_labels) == (None, None, None)
        assert bare.fingerprint == whole.fingerprint
    assert split.fingerprint == whole.fingerprint


def test_the_fingerprint_is_of_every_pixel_and_of_the_shapes() -> None:
    train, test = np.zeros((3, 2, 2, 1), np.uint8), np.zeros((2, 2, 2, 1), np.uint8)
    changed = test.copy()
    changed[-1, -1, -1] = 1
    sets = [(train, test), (train, changed), (test, train), (train.reshape(3, 4, 1, 1), test)]
    assert len({fingerprint(*images) for images in sets}) == len(sets)
    assert fingerprint(train, test) == fingerprint(train.copy(), test.copy())


@pytest.mark.parametrize("choice", ["auto", "stand-in"])
@pytest.mark.parametrize(
    ("data", "limit"), [(Data("mnist", holdout=60_000), 60_000), (Data("cifar10", holdout=50_001), 50_000)]
)
def test_to_hold_out_every_image_is_wrong_use(data: Data, limit: int, choice: Choice) -> None:
    with pytest.raises(UsageError, match=rf"^data.holdout={data.holdout}: .* {limit}\b"):
        load(data, choice)


def test_the_survey_reports_every_location_and_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, connections: list[object]
) -> None:
    monkeypatch.delenv("REPRO_OFFLINE")
    write_mnist(tmp_path / "named" / "mnist")
    write(cache / "data_batch_1", b"broken")
    findings = survey(tmp_path / "named")
    places = ("directory", "cache", "download", "stand-in")
    assert [(f.name, f.place.split()[0]) for f in findings] == list(product(("mnist", "cifar10"), places))
    found = ["unverified", "absent", "not tried", "stand-in", "absent", "broken", "not tried", "stand-in"]
    assert [finding.status for finding in findings] == found
    assert "20 training and 10 test images" in findings[0].detail
    assert str(cache) in findings[5].detail
    assert connections == []
    assert survey(tmp_path / "missing")[0].status == "broken"
    assert survey()[0].status == "absent"
    monkeypatch.delenv("REPRO_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert survey()[1].place == f"cache {tmp_path}/user/repro"


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))])
def test_a_stand_in_has_the_shape_of_what_it_stands_for_and_no_test_image_in_training(
    name: str, shape: tuple[int, ...]
) -> None:
    whole, split = (load(Data(name, holdout=n), "stand-in") for n in (0, 5000))  # type: ignore[arg-type]
    for part in (whole.train, whole.test, split.train, split.heldout):
        assert (part.dtype, part.shape[1:], int(part.min())) == (torch.uint8, shape, 0)
        assert part.max() >= 250
    assert len(whole.train) >= 1000
    assert 0.05 <= len(split.heldout) / len(whole.train) <= 0.15
    train, test = ({image.numpy().tobytes() for image in part} for part in (whole.train, whole.test))
    assert not train & test


def test_the_digits_have_the_same_pixels_everywhere_and_the_labels_of_their_digits() -> None:
    found = load(Data("mnist", holdout=5000), "stand-in")
    assert found.fingerprint == "0733a3c305dfccb70d74f4b24877ac2dd7251629cc068b4a5de9fa471089abb7"
    zeros, ones = (found.train[found.train_labels == digit].float().mean(0)[..., 0] for digit in (0, 1))
    assert zeros[14, 14] < 0.3 * ones[14, 14]  # a nought is hollow
    assert load(Data("cifar10"), "stand-in").train_labels is None


def test_no_two_patches_are_alike_and_none_of_training_overlaps_one_of_test(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every pixel holds its position: the low bytes of column and row, then their high bytes and its photograph.
    row, column = np.indices((427, 640))
    photographs = [np.stack([column, row, 100 * i + 10 * (column >> 8) + (row >> 8)], axis=-1) for i in (0, 1)]
    sample = SimpleNamespace(images=[photograph.astype(np.uint8) for photograph in photographs])
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: sample)
    train, test = (part.astype(int) for part in stand_in.cifar10()[0])
    for part in (train, test):
        assert len({tuple(patch[0, 0]) for patch in part}) == len(part)
        assert set((part[..., 2] // 100).flat) == {0, 1}
    column_train, column_test = (part[..., 0] + 256 * (part[..., 2] // 10 % 10) for part in (train, test))
    assert column_train.max() < column_test.min()
