"""Downloading a data set into the cache, on a machine that may have no network and beside others that do the same."""

import os
import queue
import shutil
import socket
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

from filelock import FileLock

from repro.data.files import AbsentError, Images, Published

PROBE_SECONDS = 4.0  # for all mirrors together, names looked up included
STALL_SECONDS = 10.0  # without a byte, once a download is under way
LOCK_SECONDS = 1200.0  # while another process downloads the same


def download(published: Published, cache: Path) -> Images:
    """Download a data set into `cache`, unless another process was quicker, and read it.

    Raises AbsentError with the reason in one line if that fails, and DataError if what is in the cache is broken.
    """
    if os.environ.get("REPRO_OFFLINE", "0") not in ("", "0"):
        raise AbsentError("switched off by REPRO_OFFLINE")
    try:
        probe(published.urls(), PROBE_SECONDS)
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


def probe(urls: Sequence[str], seconds: float) -> None:
    """Return as soon as one of `urls` answers. Raises ConnectionError with the reasons if none does within `seconds`.

    The threads that ask are left behind, since nothing ends a name look-up that hangs.
    """
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    for url in urls:
        Thread(target=_ask, args=(url, seconds, answers), daemon=True).start()
    deadline = time.monotonic() + seconds
    reasons = []
    for _ in urls:
        try:
            reason = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            reasons.append(f"no answer within {seconds:g} s")
            break
        if not reason:
            return
        reasons.append(reason)
    raise ConnectionError("; ".join(reasons))


def _ask(url: str, seconds: float, answers: "queue.SimpleQueue[str]") -> None:
    """Put an empty string for an answer, and else the reason."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
            answers.put("")
    except Exception as error:  # a thread has nobody to raise to
        answers.put(f"{urlsplit(url).netloc}: {getattr(error, 'reason', error)}")
