"""The search for a data set: its order, what it says it used, downloads that fail, and the stand-ins.

Mirrors are folders, served by this machine to itself; no test needs a network.
"""

import gzip
import io
import logging
import multiprocessing
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from test_files import find_mnist, idx, python_2_batch, write, write_mnist

from repro.data import Choice, download, load, source, standin, survey
from repro.data.cifar10 import CIFAR10
from repro.data.cifar10 import MD5 as BATCHES
from repro.data.files import AbsentError, Published, md5
from repro.errors import DataError, UsageError
from repro.spec import Data

DATA = Data("mnist")
FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@pytest.fixture(scope="session")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders with all the images and labels of MNIST in number, each of one grey."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            for file, count in zip(FILES, (60_000, 60_000, 10_000, 10_000), strict=True):
                shape = (count, 28, 28) if "images" in file else (count,)
                grey = np.full(shape, len(made), np.uint8)
                write(made[name] / file, gzip.compress(idx(grey), compresslevel=1))
        return made[name]

    return make


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"  # where `_alone` has the cache


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], str]]:
    """The address at which a folder is served."""
    monkeypatch.setenv("no_proxy", "*")
    with ExitStack() as servers:

        def start(folder: Path) -> str:
            server = servers.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))))
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            servers.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/"

        yield start


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, serve: Callable[[Path], str]) -> Callable[[Path], None]:
    """Make a folder the only mirror of MNIST, and allow downloads."""

    def use(folder: Path) -> None:
        monkeypatch.delenv("REPRO_OFFLINE", raising=False)
        resources = [(file, md5((folder / file).read_bytes()) if (folder / file).exists() else "0") for file in FILES]
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [serve(folder)])
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)

    return use


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every attempt to look up a name or to open a connection; each fails."""
    attempts: list[object] = []

    def refuse(*args: object, **_: object) -> None:
        attempts.append(args)
        raise OSError("the network is\nblocked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


# The order of the search


def test_each_place_goes_before_the_next(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
    full_size: Callable[[str], Path],
    mirror: Callable[[Path], None],
) -> None:
    assert load(DATA).origin == f"stand-in: {standin.MNIST}"

    mirror(full_size("mirror"))
    assert load(DATA).origin == f"downloaded to {cache}/MNIST/raw"

    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [])
    assert load(DATA).origin == f"cache {cache}/MNIST/raw"

    monkeypatch.setenv("REPRO_DATA_DIR", str(full_size("variable")))
    assert load(DATA).origin == f"directory {full_size('variable')}"

    named = load(DATA, data_dir=full_size("named"))
    assert named.origin == f"directory {full_size('named')}"
    assert load(DATA, "real", full_size("named")).fingerprint == named.fingerprint
    assert named.status == "unverified"

    assert load(DATA, "stand-in", full_size("named")).status == "stand-in"


def test_a_named_directory_is_a_demand(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
    full_size: Callable[[str], Path],
    connections: list[object],
) -> None:
    monkeypatch.setenv("REPRO_OFFLINE", "0")
    (tmp_path / "empty").mkdir()
    shutil.copytree(full_size("named"), cache / "MNIST/raw")
    for choice in ("auto", "real"):
        with pytest.raises(DataError, match=r"^mnist: directory .*/empty: nothing of .*train-images-idx3-ubyte"):
            load(DATA, choice, tmp_path / "empty")  # type: ignore[arg-type]
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path / "empty"))
    with pytest.raises(DataError, match="should hold"):
        load(DATA)
    assert load(DATA, "stand-in").status == "stand-in"
    assert connections == []


def test_relative_directories_are_reported_in_full(tmp_path: Path, full_size: Callable[[str], Path]) -> None:
    (tmp_path / "here").symlink_to(full_size("named"))
    assert load(DATA, data_dir=Path("here")).origin == f"directory {tmp_path}/here"


def test_the_cache_is_the_users_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPRO_CACHE_DIR")
    monkeypatch.setattr(source, "user_cache_path", lambda name: Path("/home/u/.cache") / name)
    assert {finding.place for finding in survey() if "cache" in finding.place} == {"cache /home/u/.cache/repro"}


def test_real_data_that_are_nowhere_are_an_error_that_lists_every_place(cache: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(Data("cifar10"), "real")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines[:4]] == [
        "cifar10",
        "  directory",
        f"  cache {cache}",
        "  download",
    ]
    assert "REPRO_OFFLINE" in lines[3]
    assert "cifar-10-batches-py" in lines[4]
    assert "REPRO_DATA_DIR" in lines[4]


@pytest.mark.parametrize("choice", ["auto", "real"])
def test_a_directory_that_cannot_be_read_is_an_error(tmp_path: Path, choice: Choice) -> None:
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path / "missing", "No such file"), (tmp_path / "file", "Not a directory")):
        with pytest.raises(DataError, match=rf"{reason}.*{path}"):
            load(DATA, choice, path)


def test_a_broken_file_is_never_passed_over(tmp_path: Path, cache: Path) -> None:
    for folder in (tmp_path / "named", cache):
        path = write(folder / "mnist" / FILES[0], b"broken")
        write(folder / "mnist" / FILES[2], b"")
        with pytest.raises(DataError, match=f"^{re.escape(str(path))}: "):
            load(DATA, data_dir=folder if folder != cache else None)


def test_full_size_cifar_is_loaded_from_its_binary_layout(tmp_path: Path) -> None:
    for name in BATCHES:
        with (tmp_path / f"{name}.bin").open("wb") as file:
            file.truncate(10_000 * 3073)
    dataset = load(Data("cifar10", holdout=5000), data_dir=tmp_path)
    shapes = [tuple(part.shape) for part in (dataset.train, dataset.heldout, dataset.test)]
    assert shapes == [(45_000, 32, 32, 3), (5_000, 32, 32, 3), (10_000, 32, 32, 3)]
    assert dataset.status == "unverified"


# What is loaded


def test_the_first_images_are_held_out_and_the_fingerprint_does_not_depend_on_how_many(
    full_size: Callable[[str], Path],
) -> None:
    whole = load(DATA, data_dir=full_size("named"))
    split = load(Data("mnist", holdout=5000), data_dir=full_size("named"))
    assert torch.equal(torch.cat([split.heldout, split.train]), whole.train)
    assert (len(split.heldout), len(split.train)) == (5000, 55_000)
    assert torch.equal(whole.heldout, whole.test)
    assert split.fingerprint == whole.fingerprint


def test_the_fingerprint_is_of_every_pixel_and_of_the_shapes() -> None:
    train, test = np.zeros((3, 2, 2, 1), np.uint8), np.zeros((2, 2, 2, 1), np.uint8)
    changed = test.copy()
    changed[-1, -1, -1] = 1
    sets = [(train, test), (train, changed), (test, train), (train.reshape(3, 4, 1, 1), test)]
    assert len({source._fingerprint(*images) for images in sets}) == len(sets)
    assert source._fingerprint(train, test) == source._fingerprint(train.copy(), test.copy())


@pytest.mark.parametrize("choice", ["auto", "stand-in"])
@pytest.mark.parametrize(
    ("data", "limit"), [(Data("mnist", holdout=60_000), 60_000), (Data("cifar10", holdout=50_001), 50_000)]
)
def test_to_hold_out_every_image_is_wrong_use(data: Data, limit: int, choice: Choice) -> None:
    with pytest.raises(UsageError, match=rf"^data.holdout={data.holdout}: .* {limit}\b"):
        load(data, choice)


# Downloads


def test_an_interrupted_download_leaves_nothing_behind(
    tmp_path: Path,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    full_size: Callable[[str], Path],
    mirror: Callable[[Path], None],
) -> None:
    caplog.set_level(logging.INFO, "repro.data")
    write(tmp_path / "half" / FILES[0], (full_size("mirror") / FILES[0]).read_bytes())
    mirror(tmp_path / "half")
    assert load(DATA).status == "stand-in"
    assert FILES[1] in caplog.messages[-1]
    assert "\n" not in caplog.messages[-1]
    write(cache / ".mnist.part" / "MNIST" / "raw" / FILES[0], b"of a process that was killed")
    mirror(full_size("mirror"))
    assert load(DATA).origin.startswith("downloaded")
    assert sorted(path.name for path in cache.iterdir()) == [".mnist.lock", "MNIST"]


def test_what_is_not_what_was_published_does_not_reach_the_cache(
    monkeypatch: pytest.MonkeyPatch, cache: Path, full_size: Callable[[str], Path], mirror: Callable[[Path], None]
) -> None:
    mirror(full_size("mirror"))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", [(file, "0" * 32) for file in FILES])
    assert load(DATA).status == "stand-in"
    assert not (cache / "MNIST").exists()


Publish = Callable[[Callable[[Path], None]], Published]


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Publish:
    """A small data set, with a download of the test's own."""
    monkeypatch.delenv("REPRO_OFFLINE")
    return partial(Published, "small", "files", find_mnist, "mnist")


def fill(folder: Path) -> None:
    write_mnist(folder / "mnist")


def test_ctrl_c_ends_a_download_and_leaves_nothing_to_find(cache: Path, publish: Publish) -> None:
    def fetch(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download.download(publish(fetch), cache)
    assert [path.name for path in cache.iterdir()] == [".small.lock"]
    assert socket.getdefaulttimeout() is None


def test_a_download_that_is_broken_is_not_kept(cache: Path, publish: Publish) -> None:
    def fetch(folder: Path) -> None:
        fill(folder)
        write(folder / "mnist" / "train-images-idx3-ubyte", b"<html>")

    with pytest.raises(AbsentError, match="a web page"):
        download.download(publish(fetch), cache)
    download.download(publish(fill), cache)


def test_a_stalled_download_would_time_out(cache: Path, publish: Publish) -> None:
    timeouts = []

    def fetch(folder: Path) -> None:
        timeouts.append(socket.getdefaulttimeout())
        fill(folder)

    download.download(publish(fetch), cache)
    assert timeouts == [download.STALL_SECONDS]


def test_a_cache_that_cannot_be_written_is_only_a_reason(tmp_path: Path, publish: Publish) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AbsentError, match="Not a directory"):
        download.download(publish(fill), tmp_path / "file" / "cache")


def test_two_processes_at_once_download_only_once(tmp_path: Path, cache: Path, publish: Publish) -> None:
    def fetch(folder: Path) -> None:
        with (tmp_path / "log").open("a") as log:
            log.write("fetched\n")
        time.sleep(0.3)
        fill(folder)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=download.download, args=(publish(fetch), cache)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "fetched\n"


def archive(folder: Path, *others: tarfile.TarInfo) -> None:
    """A published archive, with other members first."""
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as tar:
        for other in others:
            tar.addfile(other, io.BytesIO(b"x" * other.size))
        for name in BATCHES:
            if any(other.name.endswith(name) for other in others):
                continue
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            content = python_2_batch(np.zeros((1, 3072), np.uint8))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def member(name: str, **attributes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


@pytest.fixture
def fetch_cifar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Path], str]
) -> Callable[[Path], None]:
    """Download the archive in the test's own directory into a folder."""
    file = tmp_path / "cifar-10-python.tar.gz"

    def fetch(folder: Path) -> None:
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", serve(tmp_path) + file.name)
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", md5(file.read_bytes()))
        folder.mkdir()
        CIFAR10.fetch(folder)

    return fetch


def test_no_member_of_an_archive_escapes(tmp_path: Path, fetch_cifar: Callable[[Path], None]) -> None:
    outside = member("out", type=tarfile.SYMTYPE, linkname=str(tmp_path))
    archive(
        tmp_path,
        member("../escaped", size=1),
        member(str(tmp_path / "escaped"), size=1),
        outside,
        member("out/escaped", size=1),
    )
    fetch_cifar(tmp_path / "into")
    assert not (tmp_path / "escaped").exists()
    assert {path.name for path in (tmp_path / "into" / "cifar-10-batches-py").iterdir()} == set(BATCHES)


def test_an_archive_with_a_link_or_a_folder_for_a_batch_is_refused(
    tmp_path: Path, fetch_cifar: Callable[[Path], None]
) -> None:
    name = "cifar-10-batches-py/data_batch_1"
    for number, instead in enumerate(
        [member(name, type=tarfile.DIRTYPE), member(name, type=tarfile.SYMTYPE, linkname="/etc/passwd")]
    ):
        archive(tmp_path, instead)
        with pytest.raises((tarfile.TarError, KeyError)):
            fetch_cifar(tmp_path / f"into{number}")


# Without a network


def test_offline_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, connections: list[object]) -> None:
    assert load(DATA).status == "stand-in"
    assert connections == []
    monkeypatch.setenv("REPRO_OFFLINE", "0")
    assert load(DATA).status == "stand-in"
    assert connections != []


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_blocked_network_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, connections: list[object], cache: Path, name: str
) -> None:
    monkeypatch.delenv("REPRO_OFFLINE")
    caplog.set_level(logging.INFO, "repro.data")
    assert load(Data(name)).status == "stand-in"  # type: ignore[arg-type]
    assert len(connections) > 0
    assert caplog.messages[-1].startswith(f"{name}: download: ")
    assert "the network is blocked" in caplog.messages[-1]
    assert {path.name for path in cache.iterdir()} == {f".{name}.lock"}


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    heavy = "{'mlflow', 'optuna', 'sklearn', 'torchvision'}"
    code = f"import sys, repro.data; sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


ROOT = Path(__file__).parents[2]


# Stand-ins


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))])
def test_a_stand_in_has_the_shape_of_what_it_stands_for(name: str, shape: tuple[int, ...]) -> None:
    whole = load(Data(name), "stand-in")  # type: ignore[arg-type]
    split = load(Data(name, holdout=5000), "stand-in")  # type: ignore[arg-type]
    for part in (whole.train, whole.test, split.train, split.heldout):
        assert part.dtype == torch.uint8
        assert part.shape[1:] == shape
        assert part.is_contiguous()
        assert part.min() == 0
        assert part.max() >= 250
    assert len(whole.train) >= 1000
    assert len(whole.train) % 100 == len(split.train) % 100 == 0
    assert 0.05 <= len(split.heldout) / len(whole.train) <= 0.15
    parts = {"mnist": [split.heldout, split.train], "cifar10": [split.train, split.heldout]}[name]
    assert torch.equal(torch.cat(parts), whole.train)
    assert split.fingerprint == whole.fingerprint
    train, test = ({image.numpy().tobytes() for image in part} for part in (whole.train, whole.test))
    assert not train & test


def test_the_digits_have_the_same_pixels_everywhere() -> None:
    expected = "0733a3c305dfccb70d74f4b24877ac2dd7251629cc068b4a5de9fa471089abb7"
    assert load(DATA, "stand-in").fingerprint == expected


def test_the_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits  # noqa: PLC0415

    train, test = standin.mnist()
    images = torch.from_numpy(np.concatenate([train, test])).permute(0, 3, 1, 2).float()
    digits = torch.from_numpy(load_digits().images).float()[:, None] * 255 / 16
    # By another road; the outermost pixels differ, since there the stand-in fades to black.
    enlarged = torch.nn.functional.interpolate(digits, size=(20, 20), mode="bilinear", align_corners=False)
    assert (images[..., 4:-4, 4:-4] - enlarged)[..., 1:-1, 1:-1].abs().max() < 1
    assert images[..., :4, :].max() == images[..., -4:, :].max() == 0


def test_every_patch_is_another_and_none_of_training_overlaps_one_of_test(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every pixel holds its place: the low bytes of column and row, then their high bytes and its photograph.
    row, column = np.indices((427, 640))
    photographs = [np.stack([column, row, 100 * i + 10 * (column >> 8) + (row >> 8)], axis=-1) for i in (0, 1)]
    sample = SimpleNamespace(images=[photograph.astype(np.uint8) for photograph in photographs])
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: sample)
    train, test = (part.astype(int) for part in standin.cifar10())
    for part in (train, test):
        assert len({tuple(patch[0, 0]) for patch in part}) == len(part)
        assert set((part[..., 2] // 100).flat) == {0, 1}
        assert (np.diff(part[..., 0], axis=2) % 256 == 1).all()
        assert (np.diff(part[..., 1], axis=1) % 256 == 1).all()
    column_train, column_test = (part[..., 0] + 256 * (part[..., 2] // 10 % 10) for part in (train, test))
    assert column_train.max() < column_test.min()


# The survey


def test_the_survey_reports_every_place_and_raises_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
    connections: list[object],
    full_size: Callable[[str], Path],
) -> None:
    monkeypatch.delenv("REPRO_OFFLINE")
    (tmp_path / "named" / "mnist").parent.mkdir()
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


def test_the_survey_reports_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert survey(tmp_path / "missing")[0].status == "broken"
    assert survey()[0].status == "absent"
