"""How CIFAR-10's files are found, checked and read; on small files of the same formats."""

import os
import pickle
import random
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data_files import (
    BATCH,
    KINDS,
    PLANES,
    Batch,
    binary_batch,
    find_cifar,
    flipped,
    folder_with,
    peak_memory,
    python_2_batch,
    python_3_batch,
    refused,
    write,
    write_cifar,
)

from repro.data import cifar10
from repro.data.files import md5
from repro.errors import DataError

write_binary = partial(write_cifar, batch=binary_batch)


@pytest.mark.parametrize("parent", [".", "cifar10"])
@pytest.mark.parametrize("layout", ["cifar-10-batches-py", "cifar-10-batches-bin", "."])
def test_cifar_is_found_in_its_usual_folders(tmp_path: Path, parent: str, layout: str) -> None:
    folder = tmp_path / parent / layout
    write_cifar(folder, binary_batch if layout.endswith("bin") else python_2_batch)
    assert find_cifar(tmp_path).folder == folder


@pytest.mark.parametrize(
    "batch", [binary_batch, python_2_batch, *(partial(python_3_batch, protocol=protocol) for protocol in range(5))]
)
def test_all_layouts_of_cifar_hold_the_same_images_and_labels(tmp_path: Path, batch: Batch) -> None:
    found = find_cifar(write_cifar(tmp_path, batch))
    assert (found.train.shape, found.test.shape) == ((5 * BATCH, 32, 32, 3), (BATCH, 32, 32, 3))
    images = np.concatenate([found.train, found.test])
    for image, row, column, channel in ((0, 0, 0, 0), (5, 31, 2, 1), (23, 7, 31, 2)):
        planes = PLANES[image // BATCH, image % BATCH]
        assert images[image, row, column, channel] == planes[channel * 1024 + row * 32 + column]
    assert np.array_equal(images.transpose(0, 3, 1, 2).reshape(PLANES.shape), PLANES)
    assert found.labels is not None
    assert np.array_equal(found.labels[0], KINDS[:5].flatten())
    assert np.array_equal(found.labels[1], KINDS[5])


def test_the_checksums_are_those_that_torchvision_compares() -> None:
    from torchvision.datasets import CIFAR10  # noqa: PLC0415

    assert list(map(list, cifar10.MD5.items())) == CIFAR10.train_list + CIFAR10.test_list


def test_cifar_is_canonical_only_in_the_python_layout_with_every_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, batch = write_cifar(tmp_path / "py"), tmp_path / "py" / "data_batch_3"
    monkeypatch.setattr(cifar10, "MD5", {name: md5((folder / name).read_bytes()) for name in cifar10.MD5})
    assert find_cifar(folder).status == "canonical"
    assert find_cifar(write_binary(tmp_path / "bin")).status == "unverified"
    write(batch, python_2_batch(PLANES[0] ^ 1))
    assert find_cifar(folder).status == "unverified"
    write(batch, python_2_batch(PLANES[5], KINDS[5]))
    assert refused(find_cifar, folder, batch).startswith("the content of test_batch")


BINARY = binary_batch(PLANES[1])
BINARY_FAULTS = {
    "empty": (b"", "an empty file"),
    "truncated": (BINARY[:-1], "12,291 bytes that start with"),
    "too long": (BINARY + b"\0", "more than 12,292 bytes"),
    "web page": (b"<html>", "a web page"),
    "label": (BINARY[:3073] + b"\x0a" + BINARY[3074:], "label 10 in record 1"),
    "random bytes": (random.Random(0).randbytes(len(BINARY)), "label "),
    "python layout": (python_2_batch(PLANES[1])[: 3073 * 4], "label "),
}
LABEL_FAULTS = {
    "no": {},
    "too few": {"labels": [1] * (BATCH - 1)},
    "no class in": {"labels": [1] * (BATCH - 1) + [10]},
    "negative": {"labels": [1] * (BATCH - 1) + [-1]},
    "fractions as": {"labels": [1.5] * BATCH},
    "text as": {"labels": "1" * BATCH},
    "an array of": {"labels": KINDS[0]},
}
PYTHON_FAULTS = {
    "empty": (b"", "an empty file"),
    "web page": (b"<html>", "a web page"),
    "truncated": (python_2_batch(PLANES[0])[:-1], ""),
    "too long": (python_2_batch(PLANES[0]) + bytes(3 * 2**20), "more than"),
    "too few images": (python_2_batch(PLANES[0][:-1]), ""),
    "wider numbers": (python_3_batch(PLANES[0].astype(np.uint16)), ""),
    "other order": (python_3_batch(np.asfortranarray(PLANES[0])), ""),
    "a list": (pickle.dumps({"labels": KINDS[0].tolist(), "data": PLANES[0].tolist()}), ""),
    "no pixels": (pickle.dumps({"labels": KINDS[0].tolist()}), ""),
    "no dictionary": (pickle.dumps([1]), ""),
    "binary layout": (BINARY, ""),
} | {f"{name} labels": (pickle.dumps({"data": PLANES[0]} | labels), "") for name, labels in LABEL_FAULTS.items()}


@pytest.mark.parametrize(("content", "found"), BINARY_FAULTS.values(), ids=BINARY_FAULTS)
def test_a_broken_binary_batch_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    path = write(write_binary(tmp_path) / "data_batch_2.bin", content)
    assert refused(find_cifar, tmp_path, path).startswith(found)


@pytest.mark.parametrize(("content", "found"), PYTHON_FAULTS.values(), ids=PYTHON_FAULTS)
def test_a_broken_python_batch_is_refused(
    tmp_path: Path, content: bytes, found: str, request: pytest.FixtureRequest
) -> None:
    said = refused(find_cifar, tmp_path, write(write_cifar(tmp_path) / "data_batch_4", content))
    assert said.startswith(found)
    assert "labels" in said or "labels" not in request.node.name


def test_a_missing_batch_is_refused(tmp_path: Path) -> None:
    (write_binary(tmp_path) / "data_batch_5.bin").unlink()
    assert refused(find_cifar, tmp_path, tmp_path / "data_batch_5.bin").startswith("none")


class Hostile:
    """Pickled as a call."""

    def __init__(self, call: Callable[..., object], *args: object) -> None:
        self.call = call, args

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def hostile_batches(trace: str) -> dict[str, bytes]:
    touch = Hostile(os.system, f"touch {trace}")
    return {
        "a call instead of a batch": pickle.dumps(touch),
        "a call instead of the pixels": pickle.dumps({"data": touch}),
        "a call beside the pixels": pickle.dumps({"data": PLANES[0], "labels": touch}, 2),
        "a call in the newest protocol": pickle.dumps(touch, 5),
        "an attribute of what is admitted": b"cnumpy\nndarray.tofile\n.",
        "a module below one that is admitted": b"cnumpy.lib.npyio\nload\n.",
        "a memo of 256 MB, but it could be gigabytes": b"]r" + struct.pack("<I", 2**24) + b".",
        "a memo of 256 MB in text": b"]p%d\n." % 2**24,
        "a buffer of 256 MB": b"\x80\x05\x96" + struct.pack("<Q", 2**28) + b".",
        "bytes of 256 MB": b"\x80\x04\x8e" + struct.pack("<Q", 2**28) + b".",
        "a frame of 256 MB": b"\x80\x04\x95" + struct.pack("<Q", 2**28) + b".",
        "a string that is cut off": b"\x80\x02T\xff\xff\xff\x7fabc.",
    }


@pytest.mark.parametrize("case", hostile_batches(""))
def test_a_hostile_pickle_is_refused_and_does_nothing(tmp_path: Path, case: str) -> None:
    path = write(write_cifar(tmp_path) / "test_batch", hostile_batches(str(tmp_path / "trace"))[case])
    with peak_memory() as peak:
        refused(find_cifar, tmp_path, path)
    assert peak() < 2**24
    assert not (tmp_path / "trace").exists()


BATCHES = [python_2_batch(PLANES[0]), python_3_batch(PLANES[0], protocol=2), python_3_batch(PLANES[0], protocol=4)]
SHORTENED = st.builds(
    lambda content, part: content[: int(part * len(content))],
    st.sampled_from(BATCHES),
    st.floats(0, 1, exclude_max=True),
)


@given(st.binary(max_size=60) | st.lists(st.integers(0, 127)).map(bytes) | SHORTENED)
def test_arbitrary_bytes_and_shortened_batches_are_never_taken_for_a_batch(content: bytes) -> None:
    for name, fill in (("data_batch_1", write_cifar), ("data_batch_1.bin", write_binary)):
        with folder_with(name, content, fill) as folder:
            refused(find_cifar, folder, folder / name)


@settings(max_examples=300)
@given(st.sampled_from(BATCHES), st.integers(0, 8 * 250 - 1), st.booleans())
def test_a_changed_bit_in_a_python_batch_is_refused_or_does_no_harm(content: bytes, bit: int, at_end: bool) -> None:
    changed = flipped(content, 8 * len(content) - 1 - bit if at_end else bit)
    with folder_with("data_batch_1", changed, write_cifar) as folder:
        try:
            assert find_cifar(folder).train.shape == (5 * BATCH, 32, 32, 3)
        except DataError as error:
            assert str(error).startswith(str(folder / "data_batch_1"))
