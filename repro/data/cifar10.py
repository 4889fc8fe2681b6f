"""CIFAR-10 from its python layout (six pickled batches) or its binary layout (six files of records)."""

import io
import pickle
import pickletools
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.data.files import AbsentError, Images, Labels, Published, describe, fault, locate, md5, read
from repro.spec import DATASETS

SHAPE, TRAIN_IMAGES, _ = DATASETS["cifar10"]
BATCH_IMAGES = 10_000
MD5 = {  # of the python batches; none are published for the binary ones
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}

_PYTHON, _BINARY = "cifar-10-batches-py", "cifar-10-batches-bin"
_PARENTS = (".", "cifar10", "cifar-10", "CIFAR10")
_PIXELS = SHAPE.channels * SHAPE.height * SHAPE.width  # of one image: a red, a green and a blue plane
_CLASSES = 10


def find(root: Path, batch_images: int = BATCH_IMAGES) -> Images:
    """Read CIFAR-10 from `root` or one of its usual subfolders: [N, 32, 32, 3] each for train and test, and labels.

    The python layout is preferred, because its checksums are published. Raises AbsentError if neither layout is there,
    and DataError if a file is missing, unreadable or damaged.
    """
    try:
        paths = locate(root, [*_PARENTS, *(f"{parent}/{_PYTHON}" for parent in _PARENTS)], [[name] for name in MD5])
        read_batch = _read_python
    except AbsentError:
        folders = [*_PARENTS, *(f"{parent}/{_BINARY}" for parent in _PARENTS)]
        paths = locate(root, folders, [[f"{name}.bin"] for name in MD5])
        read_batch = _read_binary
    images = np.empty((len(paths), batch_images, SHAPE.height, SHAPE.width, SHAPE.channels), np.uint8)
    labels = np.empty(images.shape[:2], np.uint8)
    canonical = True
    for batch, path in enumerate(paths):
        planes, labels[batch], known = read_batch(path, batch_images)
        images[batch] = planes.reshape(-1, *SHAPE).transpose(0, 2, 3, 1)
        canonical = canonical and known
    train = images[:-1].reshape(-1, *images.shape[2:])
    return Images(paths[0].parent, train, images[-1], canonical, (labels[:-1].reshape(-1), labels[-1]))


def _read_binary(path: Path, images: int) -> tuple[NDArray[np.uint8], Labels, bool]:
    """Return pixels [images, 3072], labels, and False: the binary files have no published checksums."""
    size = images * (1 + _PIXELS)
    expected = f"{images:,} records of {1 + _PIXELS:,} bytes"
    content = read(path, size)
    if len(content) != size:
        raise fault(path, expected, f"more than {size:,} bytes" if len(content) > size else describe(content))
    records = np.frombuffer(content, np.uint8).reshape(images, 1 + _PIXELS)
    labels = records[:, 0]
    if labels.max() >= _CLASSES:
        wrong = int((labels >= _CLASSES).argmax())
        raise fault(path, f"labels below {_CLASSES} in {expected}", f"label {labels[wrong]} in record {wrong}")
    return records[:, 1:], labels, False


def _read_python(path: Path, images: int) -> tuple[NDArray[np.uint8], Labels, bool]:
    """Return pixels [images, 3072] and labels of a pickled batch, and whether it has its published checksum."""
    limit = 2 * images * _PIXELS + 2**20  # room for labels, file names and pickle protocol 0
    expected = f"a CIFAR-10 python batch of {images:,} images"
    content = read(path, limit)
    if len(content) > limit:
        raise fault(path, expected, f"more than {limit:,} bytes")
    digest = md5(content)
    if digest in MD5.values() and digest != MD5[path.name]:
        raise fault(path, expected, "the content of " + next(name for name in MD5 if MD5[name] == digest))
    try:
        planes, labels = _unpickle(content, images)
    except Exception as error:  # a broken or hostile pickle can raise anything
        raise fault(path, expected, f"{describe(content)} ({type(error).__name__}: {str(error)[:100]})") from None
    return planes, labels, digest == MD5[path.name]


class _Recorded:
    """Replaces an object or a call in a pickle. It keeps the arguments and the state, and runs nothing."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


_ADMITTED = {
    ("_codecs", "encode"),  # with which python 3 pickles bytes in older protocols
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}
"""The names that a pickled numpy array of bytes refers to."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module!r}, {name!r} is not admitted")
        return _Recorded


def _check_sizes(content: bytes) -> None:
    """Raise if the unpickler would allocate more memory than the length of the pickle justifies.

    `genops` raises ValueError if an argument is longer than the rest of the content.
    """
    for number, (code, argument, _) in enumerate(pickletools.genops(content)):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > number:
            raise pickle.UnpicklingError(f"memo {argument} is not the next one")


def _unpickle(content: bytes, images: int) -> tuple[NDArray[np.uint8], Labels]:
    _check_sizes(content)
    batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    labels, (_, shape, dtype, fortran_order, pixels) = batch["labels"], batch["data"].state
    numbers = isinstance(labels, list) and all(type(label) is int and 0 <= label < _CLASSES for label in labels)
    if not numbers or len(labels) != images:
        raise ValueError(f"labels that are not {images:,} whole numbers below {_CLASSES}")
    if (shape, dtype.args[0], fortran_order) != ((images, _PIXELS), "u1", False):
        raise ValueError(f"an array {shape} of {dtype.args[0]}")
    if isinstance(pixels, _Recorded):
        pixels = pixels.args[0]
    if isinstance(pixels, str):  # python 2, or an older protocol
        pixels = pixels.encode("latin1")
    return np.frombuffer(pixels, np.uint8).reshape(shape), np.array(labels, np.uint8)


def _fetch(folder: Path) -> None:
    from torchvision.datasets import CIFAR10 as TORCHVISION  # noqa: PLC0415 - slow, for a download only
    from torchvision.datasets.utils import download_url  # noqa: PLC0415 - slow, for a download only

    download_url(TORCHVISION.url, str(folder), TORCHVISION.filename, TORCHVISION.tgz_md5)
    (folder / _PYTHON).mkdir()
    # Not torchvision's own extraction: before python 3.14 that follows any path an archive names.
    with tarfile.open(folder / TORCHVISION.filename) as archive:
        for name in MD5:
            member = archive.extractfile(f"{_PYTHON}/{name}")
            if member is None:
                raise tarfile.ExtractError(f"{name} in {TORCHVISION.filename} is not a file")
            with (folder / _PYTHON / name).open("wb") as file:
                shutil.copyfileobj(member, file)


CIFAR10 = Published(
    name="cifar10",
    files=f"{_PYTHON} (data_batch_1 to data_batch_5 and test_batch) or {_BINARY} (the same with .bin)",
    find=find,
    cached=_PYTHON,
    fetch=_fetch,
)
