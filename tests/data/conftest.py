"""Small data sets in place of the published ones, and a mirror on this machine; no test needs a network."""

import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torchvision
from support.data_files import MNIST_GZIP, find_cifar, find_mnist

from repro.data.files import md5
from repro.data.load import PUBLISHED


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, find in {"mnist": find_mnist, "cifar10": find_cifar}.items():
        monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], find=find))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"  # as set for every test


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a folder, served by this machine, the only mirror of MNIST, and allow downloads."""

    def use(folder: Path) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sums = [md5((folder / file).read_bytes()) if (folder / file).exists() else "0" for file in MNIST_GZIP]
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", list(zip(MNIST_GZIP, sums, strict=True)))
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.delenv("REPRO_OFFLINE", raising=False)

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
