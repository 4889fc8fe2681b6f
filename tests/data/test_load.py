"""The search for a data set: its order, what it says it used, what is held out, and the survey."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from support.data_files import MNIST_GZIP, write

from repro.data import Choice, load, stand_in, survey
from repro.data.cifar10 import MD5 as BATCHES
from repro.data.load import fingerprint
from repro.errors import DataError, UsageError
from repro.spec import Data

DATA = Data("mnist")


def test_without_a_named_directory_the_cache_goes_before_a_download_and_that_before_the_stand_in(
    monkeypatch: pytest.MonkeyPatch, cache: Path, full_size: Callable[[str], Path], mirror: Callable[[Path], None]
) -> None:
    assert load(DATA).origin == f"stand-in: {stand_in.MNIST}"
    mirror(full_size("mirror"))
    assert load(DATA).origin == f"downloaded to {cache}/MNIST/raw"
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [])
    assert load(DATA, "real").origin == f"cache {cache}/MNIST/raw"
    assert load(DATA, "stand-in").status == "stand-in"


def test_a_named_directory_goes_before_the_variable_and_is_reported_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_size: Callable[[str], Path]
) -> None:
    monkeypatch.setenv("REPRO_DATA_DIR", str(full_size("mirror")))
    by_variable = load(DATA)
    assert by_variable.origin == f"directory {full_size('mirror')}"
    (tmp_path / "here").symlink_to(full_size("named"))
    named = load(DATA, data_dir=Path("here"))
    assert (named.origin, named.status) == (f"directory {tmp_path}/here", "unverified")
    assert load(DATA, "real", full_size("named")).fingerprint == named.fingerprint != by_variable.fingerprint
    assert load(DATA, "stand-in", full_size("named")).status == "stand-in"


@pytest.mark.parametrize("choice", ["auto", "real"])
@pytest.mark.parametrize("by_variable", [False, True])
def test_a_named_directory_without_the_data_set_is_an_error_also_where_the_cache_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, choice: Choice, by_variable: bool
) -> None:
    for name in BATCHES:
        write(cache / f"{name}.bin", b"")  # of another data set, and broken: nobody looks
    (tmp_path / "empty").mkdir()
    if by_variable:
        monkeypatch.setenv("REPRO_DATA_DIR", "empty")
    for name, looked_for in (("mnist", "train-images-idx3-ubyte"), ("cifar10", "cifar-10-batches-py")):
        with pytest.raises(DataError, match=rf"^{name}: not in the data directory {tmp_path}/empty\b.*{looked_for}"):
            load(Data(name), choice, None if by_variable else tmp_path / "empty")  # type: ignore[arg-type]
    assert load(DATA, "stand-in", tmp_path / "empty").status == "stand-in"


def test_real_data_that_are_nowhere_are_an_error_that_lists_every_location(cache: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(Data("cifar10"), "real")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines[:3]] == ["cifar10", f"  cache {cache}", "  download"]
    assert "REPRO_OFFLINE" in lines[2]
    assert "cifar-10-batches-py" in lines[3]
    assert "REPRO_DATA_DIR" in lines[3]


def test_a_directory_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path / "missing", "No such file"), (tmp_path / "file", "Not a directory")):
        with pytest.raises(DataError, match=rf"{reason}.*{path}"):
            load(DATA, data_dir=path)


def test_a_broken_file_is_never_passed_over(tmp_path: Path, cache: Path) -> None:
    for folder in (tmp_path / "named", cache):
        path = write(folder / "mnist" / MNIST_GZIP[0], b"broken")
        write(folder / "mnist" / MNIST_GZIP[2], b"")
        with pytest.raises(DataError, match=f"^{re.escape(str(path))}: "):
            load(DATA, data_dir=folder if folder != cache else None)


def test_the_last_images_of_cifar_are_held_out_from_its_binary_layout(tmp_path: Path) -> None:
    for number, name in enumerate(BATCHES):
        with (tmp_path / f"{name}.bin").open("wb") as file:
            file.truncate(10_000 * 3073 - 1)
            file.seek(0, 2)
            file.write(bytes([number]))  # the last pixel of the last image
    dataset = load(Data("cifar10", holdout=5000), data_dir=tmp_path)
    shapes = [tuple(part.shape) for part in (dataset.train, dataset.heldout, dataset.test)]
    assert shapes == [(45_000, 32, 32, 3), (5_000, 32, 32, 3), (10_000, 32, 32, 3)]
    assert [int(part[-1, -1, -1, -1]) for part in (dataset.train, dataset.heldout, dataset.test)] == [0, 4, 5]


def test_the_first_images_of_mnist_are_held_out_with_their_labels_and_the_fingerprint_stays(
    tmp_path: Path, full_size: Callable[[str], Path]
) -> None:
    whole = load(DATA, data_dir=full_size("named"))
    split = load(Data("mnist", holdout=5000), data_dir=full_size("named"))
    assert torch.equal(torch.cat([split.heldout, split.train]), whole.train)
    assert (len(split.heldout), len(split.train)) == (5000, 55_000)
    assert torch.equal(whole.heldout, whole.test)
    for found in (whole, split):
        for part in ("train", "heldout", "test"):
            assert torch.equal(getattr(found, part)[:, 13, 13, 0].long(), getattr(found, f"{part}_labels"))
    for file in MNIST_GZIP:
        if "images" in file:
            (tmp_path / file).symlink_to(full_size("named") / file)
    bare = load(DATA, data_dir=tmp_path)
    assert (bare.train_labels, bare.heldout_labels, bare.test_labels) == (None, None, None)
    assert bare.fingerprint == split.fingerprint == whole.fingerprint


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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
    connections: list[object],
    full_size: Callable[[str], Path],
) -> None:
    monkeypatch.delenv("REPRO_OFFLINE")
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "mnist").symlink_to(full_size("named"))
    broken = write(cache / "data_batch_1", b"broken")
    findings = survey(tmp_path / "named")
    assert [(finding.name, finding.place.split()[0], finding.status) for finding in findings] == [
        ("mnist", "directory", "unverified"),
        ("mnist", "cache", "absent"),
        ("mnist", "download", "not tried"),
        ("mnist", "stand-in", "stand-in"),
        ("cifar10", "directory", "absent"),
        ("cifar10", "cache", "broken"),
        ("cifar10", "download", "not tried"),
        ("cifar10", "stand-in", "stand-in"),
    ]
    assert "60,000 training and 10,000 test images" in findings[0].detail
    assert str(broken.parent) in findings[5].detail
    assert connections == []
    assert survey(tmp_path / "missing")[0].status == "broken"
    assert survey()[0].status == "absent"
    monkeypatch.delenv("REPRO_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert survey()[1].place == f"cache {tmp_path}/user/repro"


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = "import sys, repro.data; sys.exit(str({'mlflow', 'optuna', 'sklearn', 'torchvision'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"
