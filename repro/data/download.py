"""Download of a data set into the cache, safe beside other processes that do the same."""

import os
import shutil
import socket
import sys
from contextlib import redirect_stdout
from pathlib import Path

from filelock import FileLock

from repro.data.files import AbsentError, Images, Published

TIMEOUT = 5.0  # seconds without a byte, connecting included
LOCK_SECONDS = 1200.0  # to wait for another process that downloads the same


def download(published: Published, cache: Path) -> Images:
    """Download a data set into `cache`, unless another process has just done so, and read it.

    Raises AbsentError with the reason in one line if the download fails, and DataError if the cache is damaged.
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
    except Exception as error:  # of a library, the network or the disk: the search goes on
        raise AbsentError(" ".join(str(error).split())[:300] or type(error).__name__) from None
    return published.find(cache)


def _fill(cache: Path, published: Published) -> None:
    """Download a data set beside its final folder, check it, and rename it, so that the cache is always complete."""
    part = cache / f".{published.name}.part"
    shutil.rmtree(part, ignore_errors=True)  # of a killed process: this process holds the lock
    part.mkdir()
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torchvision has none, and may print
    try:
        with redirect_stdout(sys.stderr):
            published.fetch(part)
        published.find(part)
        target = cache / published.cached
        target.parent.mkdir(parents=True, exist_ok=True)
        (part / published.cached).replace(target)
    finally:
        socket.setdefaulttimeout(timeout)
        shutil.rmtree(part, ignore_errors=True)
