"""Downloading a data set into the cache, on a machine that may have no network and beside others that do the same."""

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from filelock import FileLock

from repro.data.files import AbsentError, Images, Published

TIMEOUT = 5.0  # seconds without a byte, connecting included
LOCK_SECONDS = 1200.0  # while another process downloads the same


def download(published: Published, cache: Path) -> Images:
    """Download a data set into `cache`, unless another process has just done so, and read it.

    Raises AbsentError with the reason in one line if that fails, and DataError if what is in the cache is broken.
    """
    if os.environ.get("REPRO_OFFLINE", "0") not in ("", "0"):
        raise AbsentError("switched off by REPRO_OFFLINE")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{published.name}.lock", timeout=LOCK_SECONDS):
            try:
                published.find(cache)
            except AbsentError:
                _fill(cache, published)
    except Exception as error:  # whatever goes wrong in a library, on the network or on disk, the search goes on
        raise AbsentError(" ".join(str(error).split())[:300] or type(error).__name__) from None
    return published.find(cache)


def _fill(cache: Path, published: Published) -> None:
    """Download and check a data set beside its final place, then rename it, so that no part of one is ever found."""
    part = cache / f".{published.name}.part"
    shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed: this process holds the lock
    part.mkdir()
    try:
        with _socket_timeout(), redirect_stdout(sys.stderr):  # torchvision sets no time-out, and may print
            published.fetch(part)
        published.find(part)
        target = cache / published.cached
        target.parent.mkdir(parents=True, exist_ok=True)
        (part / published.cached).replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _socket_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
