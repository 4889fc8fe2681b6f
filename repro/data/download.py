"""Downloading a data set into the cache, on a machine that may have no network and beside others that do the same."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from repro.data.files import AbsentError, Images, Published

STALL_SECONDS = 8.0  # without an answer or a byte
LOCK_SECONDS = 1200.0  # while another process downloads the same


def download(published: Published, cache: Path) -> Images:
    """Download a data set into `cache`, unless another process was quicker, and read it.

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
    except Exception as error:  # whatever went wrong in a library, on the network or on disk, the search goes on
        raise AbsentError(" ".join(str(error).split())[:300] or type(error).__name__) from None
    return published.find(cache)


def _fill(cache: Path, published: Published) -> None:
    """Only a whole and checked set gets the name it is found by, so that an interruption leaves nothing to find."""
    part = cache / f".{published.name}.part"
    shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed, since this one holds the lock
    part.mkdir()
    try:
        with _socket_timeout(STALL_SECONDS):
            published.fetch(part)
        published.find(part)
        target = cache / published.cached
        target.parent.mkdir(parents=True, exist_ok=True)
        (part / published.cached).replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """For torchvision, which sets none itself and waits for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
