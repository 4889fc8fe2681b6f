"""Finding and reading data files. Every fault of a file is raised as a DataError that names the file."""

import gzip
import hashlib
import stat
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from repro.errors import DataError

Pixels = NDArray[np.uint8]  # [N, H, W, C], C-contiguous
Labels = NDArray[np.uint8]  # [N], the number of each image's class

_GZIP = b"\x1f\x8b"


class AbsentError(Exception):
    """Raised if a data set is not in the folder searched; the message gives the reason in one line."""


@dataclass(frozen=True)
class Images:
    """The images of a folder of intact files."""

    folder: Path
    train: Pixels
    test: Pixels
    canonical: bool  # every file of images has its published checksum
    labels: tuple[Labels, Labels] | None = None  # of training and test images, if the folder has them

    @property
    def status(self) -> Literal["canonical", "unverified"]:
        return "canonical" if self.canonical else "unverified"


@dataclass(frozen=True)
class Published:
    """A published data set, and the functions that read and download it."""

    name: str
    files: str  # in words, for someone who has to supply them
    find: Callable[[Path], Images]  # reads a folder or its usual subfolders; raises AbsentError or DataError
    cached: str  # the folder that `fetch` fills
    fetch: Callable[[Path], None]  # downloads into a folder; raises any exception


def fault(path: Path, expected: str, found: str) -> DataError:
    return DataError(
        f"{path}: expected {expected}, found {found}. "
        "Put an intact copy in its place, or remove the whole set so that the search goes on."
    )


def locate(root: Path, folders: Sequence[str], files: Sequence[Sequence[str]]) -> list[Path]:
    """Return the path of each file in the first of the folders that has any. A file may have alternative names.

    Raises AbsentError if no folder has any, and DataError if that folder lacks some.
    """
    for folder in folders:
        paths = [_first(root / folder, names) for names in files]
        present = [path for path in paths if path is not None]
        if len(present) == len(files):
            return present
        if present:
            missing = root / folder / files[paths.index(None)][0]
            raise fault(missing, "a file beside the rest of its data set", "none")
    raise AbsentError("nothing of this data set there or in the usual subfolders")


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    present = [folder / name for name in names if _exists(folder / name)]
    for path in present:  # some archives have a folder and a file whose names differ by a dot: prefer the file
        with suppress(OSError):
            if path.is_file():
                return path
    return present[0] if present else None


def _exists(path: Path) -> bool:
    try:
        path.lstat()  # not `exists`: a dangling link is a broken file
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise fault(path, "a place that can be looked at", error.strerror or str(error)) from None
    return True


def read(path: Path, limit: int) -> bytes:
    """Return the content of a file, decompressed if its first bytes are gzip's.

    Returns at most `limit` + 1 bytes, so that the caller sees a file that is too long, and a gzip bomb is harmless.
    Raises DataError if the file cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise fault(path, "a file", "a directory" if path.is_dir() else "a device, a socket or a pipe")
        with path.open("rb") as file:
            if file.peek(len(_GZIP))[: len(_GZIP)] != _GZIP:
                return file.read(limit + 1)
            with gzip.GzipFile(fileobj=file) as unzipped:
                return unzipped.read(limit + 1)
    except EOFError:
        raise fault(path, "a whole gzip file", "a truncated one") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise fault(path, "an intact gzip file", f"a broken one ({error})") from None
    except OSError as error:
        raise fault(path, "a readable file", error.strerror or str(error)) from None


def describe(content: bytes) -> str:
    """Return in words what a file seems to be."""
    if not content:
        return "an empty file"
    if content[:64].lstrip().startswith(b"<"):
        return "a web page"
    return f"{len(content):,} bytes that start with {content[:8]!r}"


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
