"""How the files of MNIST and CIFAR-10 are found, checked and read; on small files of the same formats."""

import gzip
import os
import pickle
import struct
import tempfile
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import data_files as small

from repro.data import cifar10, mnist
from repro.data.files import AbsentError, md5
from repro.errors import DataError

write_binary = partial(small.write_cifar, batch=small.binary_batch)


def refused(root: Path, path: Path) -> str:
    """What the error says was found, having checked that it names the file, what was expected and what to do."""
    with pytest.raises(DataError) as caught:
        (small.find_mnist if "ubyte" in path.name else small.find_cifar)(root)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected ")
    assert "Put an intact copy in its place" in message
    return message.split(", found ", 1)[1]


@pytest.mark.parametrize("folder", [".", "mnist", "MNIST", "MNIST/raw"])
@pytest.mark.parametrize("joint", ["-", "."])
@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (gzip.compress, ".gz"), (bytes, ".gz"), (gzip.compress, "")])
def test_mnist_is_read_under_all_its_usual_names_gzip_or_not(
    tmp_path: Path, folder: str, joint: str, pack: Callable[[bytes], bytes], suffix: str
) -> None:
    small.write_mnist(tmp_path / folder, pack, joint, suffix)
    found = small.find_mnist(tmp_path)
    assert np.array_equal(np.concatenate([found.train, found.test])[..., 0], small.DIGITS)
    assert found.train.shape == (small.TRAIN, 28, 28, 1)
    assert found.labels is not None
    assert [len(part) for part in found.labels] == [small.TRAIN, small.TEST]
    assert np.array_equal(np.concatenate(found.labels), small.DIGIT_LABELS)
    assert (found.folder, found.status) == (tmp_path / folder, "unverified")


@pytest.mark.parametrize(
    ("folder", "batch"),
    [
        ("cifar10/cifar-10-batches-py", small.python_2_batch),
        ("cifar-10-batches-bin", small.binary_batch),
        *((".", partial(small.python_3_batch, protocol=protocol)) for protocol in range(5)),
    ],
)
def test_all_layouts_of_cifar_hold_the_same_images_and_labels(
    tmp_path: Path, folder: str, batch: Callable[..., bytes]
) -> None:
    small.write_cifar(tmp_path / folder, batch)
    found = small.find_cifar(tmp_path)
    assert found.folder == tmp_path / folder
    assert (found.train.shape, found.test.shape) == ((5 * small.BATCH, 32, 32, 3), (small.BATCH, 32, 32, 3))
    images = np.concatenate([found.train, found.test])
    assert images[23, 7, 31, 2] == small.PLANES[5, 3, 2 * 1024 + 7 * 32 + 31]
    assert np.array_equal(images.transpose(0, 3, 1, 2).reshape(small.PLANES.shape), small.PLANES)
    assert found.labels is not None
    assert np.array_equal(np.concatenate(found.labels), small.KINDS.flatten())
    assert len(found.labels[1]) == small.BATCH


def test_what_is_not_there_is_absent_and_labels_count_only_beside_their_images(tmp_path: Path) -> None:
    small.write_mnist(tmp_path, kind="labels")
    for root in (tmp_path, tmp_path / "missing"):
        for find in (small.find_mnist, small.find_cifar):
            with pytest.raises(AbsentError):
                find(root)
    small.write_mnist(tmp_path / "mnist", kind="images")
    assert small.find_mnist(tmp_path).labels is None


def test_the_sizes_are_those_that_were_published(tmp_path: Path) -> None:
    for find, write, said in (
        (mnist.find, small.write_mnist, "60,000 images of 28x28 pixels"),
        (cifar10.find, write_binary, "10,000 records of 3,073 bytes"),
    ):
        with pytest.raises(DataError, match=said):
            find(write(tmp_path))


def test_mnist_is_canonical_only_if_both_checksums_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.write_mnist(tmp_path)
    train, test = (md5(small.MNIST_FILES[name]) for name in (small.IMAGES, small.TEST_IMAGES))
    for known, status in (((train, test), "canonical"), ((train, "0"), "unverified"), (("0", test), "unverified")):
        monkeypatch.setattr(mnist, "MD5", known)
        assert small.find_mnist(tmp_path).status == status


def test_cifar_is_canonical_only_in_the_python_layout_with_every_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10  # noqa: PLC0415

    assert list(map(list, cifar10.MD5.items())) == CIFAR10.train_list + CIFAR10.test_list
    folder, batch = small.write_cifar(tmp_path / "py"), tmp_path / "py" / "data_batch_3"
    monkeypatch.setattr(cifar10, "MD5", {name: md5((folder / name).read_bytes()) for name in cifar10.MD5})
    assert small.find_cifar(folder).status == "canonical"
    assert small.find_cifar(write_binary(tmp_path / "bin")).status == "unverified"
    small.write(batch, small.python_2_batch(small.PLANES[0] ^ 1))
    assert small.find_cifar(folder).status == "unverified"
    small.write(batch, small.python_2_batch(small.PLANES[5], small.KINDS[5]))
    assert refused(folder, batch).startswith("the content of test_batch")


class Hostile:
    """Pickled as a call that makes a file."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch trace",)


GOOD, GOOD_LABELS = list(small.MNIST_FILES.values())[:2]
BINARY, PYTHON, ZIPPED = small.binary_batch(small.PLANES[1]), small.python_2_batch(small.PLANES[0]), gzip.compress(GOOD)
IMAGE_FAULTS = [
    (b"", "an empty file"),
    (GOOD[:-1], "only 15,695 bytes"),
    (GOOD + b"\0", "more than that"),
    (small.idx(small.DIGITS[small.TRAIN :]), "a header that declares 10 images of 28x28 pixels"),
    (small.idx(np.zeros(100, np.uint8)), "labels"),
    (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    (ZIPPED[:-4], "a truncated one"),
    (ZIPPED[:-8] + bytes(8), "a broken one"),
    (gzip.compress(GOOD + bytes(2**26)), "more than that"),
]
LABEL_FAULTS = [
    (GOOD_LABELS[:-1], "only 27 bytes"),
    (small.MNIST_FILES[small.TEST_LABELS], "a header that declares 10 labels"),
    (small.idx(np.full(small.TRAIN, 10, np.uint8)), "label 10"),
]
BINARY_FAULTS = [
    (BINARY[:-1], "12,291 bytes that start with"),
    (BINARY + b"\0", "more than 12,292 bytes"),
    (BINARY[:3073] + b"\x0a" + BINARY[3074:], "label 10 in record 1"),
]
WRONG_LABELS = [[1] * (small.BATCH - 1), [1] * (small.BATCH - 1) + [10], [1.5] * small.BATCH, small.KINDS[0]]
PYTHON_FAULTS = [
    (b"<html>", "a web page"),
    (PYTHON[:-1], ""),
    (PYTHON + bytes(3 * 2**20), "more than"),
    (small.python_3_batch(small.PLANES[0].astype(np.uint16)), "array (4, 3072) of u2"),
    (small.python_3_batch(np.asfortranarray(small.PLANES[0])), "array"),
    (pickle.dumps({"labels": [7] * small.BATCH}), "KeyError: 'data'"),
    *((pickle.dumps({"data": small.PLANES[0], "labels": labels}), "labels that are not") for labels in WRONG_LABELS),
    (pickle.dumps({"data": Hostile()}), "is not admitted"),
    (pickle.dumps(Hostile(), 5), "is not admitted"),
    (b"cnumpy\nndarray.tofile\n.", "is not admitted"),
    (b"cnumpy.lib.npyio\nload\n.", "is not admitted"),
    (b"]r" + struct.pack("<I", 2**24) + b".", "memo"),  # of 256 MB, but it could be gigabytes
    (b"\x80\x05\x96" + struct.pack("<Q", 2**28) + b".", "ValueError"),  # a buffer of 256 MB
    (b"\x80\x04\x8e" + struct.pack("<Q", 2**28) + b".", "ValueError"),  # bytes of 256 MB
    (b"\x80\x02T\xff\xff\xff\x7fabc.", "ValueError"),  # a string that is cut off
]
FAULTS = {
    small.IMAGES: IMAGE_FAULTS,
    small.LABELS: LABEL_FAULTS,
    "data_batch_2.bin": BINARY_FAULTS,
    "data_batch_4": PYTHON_FAULTS,
}
FILL = dict(zip(FAULTS, (small.write_mnist, small.write_mnist, write_binary, small.write_cifar), strict=True))


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_hostile_or_missing_file_is_refused_and_does_nothing(tmp_path: Path, name: str) -> None:
    path = FILL[name](tmp_path) / name
    for content, found in FAULTS[name]:
        path.write_bytes(content)
        tracemalloc.start()
        try:
            assert found in refused(tmp_path, path)
            assert tracemalloc.get_traced_memory()[1] < 2**24
        finally:
            tracemalloc.stop()
    assert not (tmp_path / "trace").exists()
    for other in (path, path.with_name(path.name.replace("train", "t10k"))):
        kept = other.read_bytes()
        other.unlink()
        assert refused(tmp_path, other).startswith("none")
        other.write_bytes(kept)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    path = small.write_mnist(tmp_path) / small.IMAGES
    for make, found in (
        (path.mkdir, "a directory"),
        (partial(os.mkfifo, path), "a device, a socket or a pipe"),  # to open this would wait for a writer
        (partial(path.symlink_to, "/dev/zero"), "a device"),
        (partial(path.symlink_to, tmp_path / "moved away"), "No such file"),
        (partial(path.symlink_to, path), "Too many levels"),
    ):
        path.rmdir() if path.is_dir() else path.unlink()
        make()
        assert refused(tmp_path, path).startswith(found)


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")  # by hand, since root may read anything

    small.write_mnist(tmp_path)
    monkeypatch.setattr(Path, "open", denied)
    assert refused(tmp_path, tmp_path / small.IMAGES).startswith("Permission denied")


BATCHES = [PYTHON, small.python_3_batch(small.PLANES[0], protocol=2), small.python_3_batch(small.PLANES[0])]
ARBITRARY = st.binary(max_size=60) | st.lists(st.integers(0, 127)).map(bytes)
SHORTENED = st.builds(
    lambda content, part: content[: int(part * len(content))],
    st.sampled_from([GOOD, ZIPPED, BINARY, *BATCHES]),
    st.floats(0, 1, exclude_max=True),
)


@settings(max_examples=100)
@given(st.sampled_from(list(FILL)), ARBITRARY | ARBITRARY.map(gzip.compress) | SHORTENED | SHORTENED.map(gzip.compress))
def test_arbitrary_bytes_and_shortened_files_are_never_accepted(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        refused(Path(folder), small.write(FILL[name](Path(folder)) / name, content))


@settings(max_examples=200)
@given(st.sampled_from([ZIPPED, *BATCHES]), st.integers(-8 * 250, 8 * 250 - 1) | st.integers(0, 8 * 10_000))
def test_a_changed_bit_is_refused_or_does_no_harm(content: bytes, bit: int) -> None:
    name, find = (small.IMAGES, small.find_mnist) if content is ZIPPED else ("data_batch_4", small.find_cifar)
    changed, bit = bytearray(content), bit % (8 * len(content))
    changed[bit // 8] ^= 1 << bit % 8
    with tempfile.TemporaryDirectory() as folder:
        path = small.write(FILL[name](Path(folder)) / name, changed)
        try:
            found = find(Path(folder))
            if content is ZIPPED:
                assert np.array_equal(found.train[..., 0], small.DIGITS[: small.TRAIN])
        except DataError as error:
            assert str(error).startswith(str(path))
