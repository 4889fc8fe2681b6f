"""Data sets of full size, and mirrors that are served by this machine; no test needs a network."""

import gzip
import socket
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torchvision
from support.data_files import MNIST_GZIP, idx, write

from repro.data.files import md5


@pytest.fixture(scope="session")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders with as many images and labels as MNIST, each folder's first image of a grey of its own.

    Images have the grey of their label, from 0 to 6.
    """
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            for file, count in zip(MNIST_GZIP, (60_000, 60_000, 10_000, 10_000), strict=True):
                labels = (np.arange(count) % 7).astype(np.uint8)
                values = np.repeat(labels, 28 * 28).reshape(-1, 28, 28) if "images" in file else labels
                if "images" in file:
                    values[0, 0] = len(made)
                write(made[name] / file, gzip.compress(idx(values), compresslevel=1))
        return made[name]

    return make


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"  # as set for every test


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """Serve a directory until the process ends; return its address."""
    monkeypatch.setenv("no_proxy", "*")

    def start(folder: Path) -> str:
        handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/"

    return start


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, serve: Callable[[Path], str]) -> Callable[[Path], None]:
    """Make a folder the only mirror of MNIST, and allow downloads."""

    def use(folder: Path) -> None:
        monkeypatch.delenv("REPRO_OFFLINE", raising=False)
        sums = [md5((folder / file).read_bytes()) if (folder / file).exists() else "0" for file in MNIST_GZIP]
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [serve(folder)])
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", list(zip(MNIST_GZIP, sums, strict=True)))

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
