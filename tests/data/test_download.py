"""Downloads: what reaches the cache, what does not, and machines without a network."""

import io
import logging
import multiprocessing
import socket
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torchvision
from support.data_files import IMAGES, MNIST_GZIP, find_mnist, python_2_batch, write, write_gzip, write_mnist

from repro.data import download, load
from repro.data.cifar10 import CIFAR10
from repro.data.cifar10 import MD5 as BATCHES
from repro.data.files import AbsentError, Published
from repro.spec import Data

Publish = Callable[[Callable[[Path], None]], Published]
MNIST, DATA = torchvision.datasets.MNIST, Data("mnist")


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Publish:
    """A small data set with a download of the test's own."""
    monkeypatch.delenv("REPRO_OFFLINE")
    return partial(Published, "small", "files", find_mnist, "mnist")


def fill(folder: Path) -> None:
    write_mnist(folder / "mnist")


def interrupt(folder: Path) -> None:
    fill(folder)
    raise KeyboardInterrupt


def break_off(folder: Path) -> None:
    fill(folder)
    write(folder / "mnist" / IMAGES, b"<html>")


def test_only_a_complete_and_published_download_reaches_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, mirror: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "repro.data")
    half, whole = write_gzip(tmp_path / "half"), write_gzip(tmp_path / "whole")
    (half / MNIST_GZIP[1]).unlink()
    mirror(half)
    assert load(DATA).status == "stand-in"
    assert MNIST_GZIP[1] in caplog.messages[-1]
    mirror(whole)
    with monkeypatch.context() as patch:
        patch.setattr(MNIST, "resources", [(file, "0" * 32) for file in MNIST_GZIP])
        assert load(DATA).status == "stand-in"
    assert not (cache / "MNIST").exists()
    write(cache / ".mnist.part" / "MNIST" / "raw" / MNIST_GZIP[0], b"of a process that was killed")
    assert load(DATA).origin.startswith("downloaded")
    assert sorted(path.name for path in cache.iterdir()) == [".mnist.lock", "MNIST"]


@pytest.mark.parametrize(("fetch", "error"), [(interrupt, KeyboardInterrupt), (break_off, AbsentError)])
def test_a_broken_or_interrupted_download_leaves_nothing_to_find(
    cache: Path, publish: Publish, fetch: Callable[[Path], None], error: type[BaseException]
) -> None:
    with pytest.raises(error, match="a web page" if error is AbsentError else None):
        download.download(publish(fetch), cache)
    assert [path.name for path in cache.iterdir()] == [".small.lock"]
    assert socket.getdefaulttimeout() is None
    download.download(publish(fill), cache)


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"])
        assert load(DATA).status == "stand-in"


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


def fetch_cifar(monkeypatch: pytest.MonkeyPatch, folder: Path, *others: tarfile.TarInfo) -> None:
    """Download an archive of CIFAR-10 that has other members first."""
    content = python_2_batch(np.zeros((1, 3072), np.uint8))
    batches = [member(f"cifar-10-batches-py/{name}", size=len(content)) for name in BATCHES]

    def download_url(_: str, root: str, filename: str, md5: str) -> None:
        assert md5 == torchvision.datasets.CIFAR10.tgz_md5
        with tarfile.open(Path(root) / filename, "w:gz") as tar:
            for info in (*others, *(batch for batch in batches if batch.name not in {each.name for each in others})):
                tar.addfile(info, io.BytesIO(content))

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    folder.mkdir()
    CIFAR10.fetch(folder)


def member(name: str, **attributes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def test_no_member_of_an_archive_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = member("out", type=tarfile.SYMTYPE, linkname=str(tmp_path))
    names = ["../escaped", str(tmp_path / "escaped"), "out/escaped"]
    fetch_cifar(monkeypatch, tmp_path / "into", link, *(member(name, size=1) for name in names))
    assert not (tmp_path / "escaped").exists()
    assert {path.name for path in (tmp_path / "into" / "cifar-10-batches-py").iterdir()} == set(BATCHES)


@pytest.mark.parametrize("kind", [{"type": tarfile.DIRTYPE}, {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}])
def test_an_archive_with_a_link_or_a_folder_for_a_batch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, object]
) -> None:
    with pytest.raises((tarfile.TarError, KeyError)):
        fetch_cifar(monkeypatch, tmp_path / "into", member("cifar-10-batches-py/data_batch_1", **kind))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_offline_nothing_is_asked_and_a_blocked_network_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, connections: list[object], name: str
) -> None:
    assert load(Data(name)).status == "stand-in"  # type: ignore[arg-type]
    assert connections == []
    monkeypatch.setenv("REPRO_OFFLINE", "0")
    caplog.set_level(logging.INFO, "repro.data")
    assert load(Data(name)).status == "stand-in"  # type: ignore[arg-type]
    assert len(connections) > 0
    assert caplog.messages[-1].startswith(f"{name}: download: ")
    assert "the network is blocked" in caplog.messages[-1]
    assert "\n" not in caplog.messages[-1]
