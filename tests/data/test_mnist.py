"""How MNIST's files are found, checked and read; on small files of the same format."""

import gzip
import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.data_files import (
    DIGIT_LABELS,
    DIGITS,
    TEST,
    TRAIN,
    Pack,
    find_mnist,
    flipped,
    folder_with,
    idx,
    is_digits,
    peak_memory,
    refused,
    without_rights_of_root,
    write,
    write_mnist,
)

from repro.data import mnist
from repro.data.files import AbsentError, md5, read
from repro.errors import DataError

IMAGES, TEST_IMAGES = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"
LABELS, TEST_LABELS = "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"
GOOD, GOOD_LABELS = idx(DIGITS[:TRAIN]), idx(DIGIT_LABELS[:TRAIN])
ZIPPED = gzip.compress(GOOD)


@pytest.mark.parametrize("folder", [".", "mnist", "MNIST", "MNIST/raw"])
@pytest.mark.parametrize("joint", ["-", "."])
@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (gzip.compress, ".gz"), (bytes, ".gz"), (gzip.compress, "")])
def test_mnist_is_read_under_all_its_usual_names_gzip_or_not(
    tmp_path: Path, folder: str, joint: str, pack: Pack, suffix: str
) -> None:
    found = find_mnist(write_mnist(tmp_path / folder, pack, joint, suffix) and tmp_path)
    assert is_digits(found)
    assert found.train.shape == (TRAIN, 28, 28, 1)
    assert found.labels is not None
    assert [len(part) for part in found.labels] == [TRAIN, TEST]
    assert np.array_equal(np.concatenate(found.labels), DIGIT_LABELS)
    assert (found.folder, found.status) == (tmp_path / folder, "unverified")


def test_labels_are_optional_and_only_read_beside_their_images(tmp_path: Path) -> None:
    write(tmp_path / LABELS, GOOD_LABELS)
    for root in (tmp_path, tmp_path / "missing"):
        with pytest.raises(AbsentError):
            find_mnist(root)
    write_mnist(tmp_path / "mnist", labels=False)
    assert find_mnist(tmp_path).labels is None


def test_links_to_files_are_followed_and_files_preferred_to_folders_of_nearly_the_same_name(tmp_path: Path) -> None:
    write_mnist(tmp_path / "elsewhere")
    (tmp_path / "named" / IMAGES).mkdir(parents=True)
    for name in (IMAGES, TEST_IMAGES):
        (tmp_path / "named" / name.replace("-idx3", ".idx3")).symlink_to(tmp_path / "elsewhere" / name)
    assert is_digits(find_mnist(tmp_path / "named"))


def test_mnist_is_canonical_only_if_both_checksums_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    train, test = (md5((tmp_path / name).read_bytes()) for name in (IMAGES, TEST_IMAGES))
    for known, status in (((train, test), "canonical"), ((train, "0"), "unverified"), (("0", test), "unverified")):
        monkeypatch.setattr(mnist, "MD5", known)
        assert find_mnist(tmp_path).status == status


IMAGE_FAULTS = {
    "empty": (b"", "an empty file"),
    "short header": (GOOD[:15], "15 bytes that start with"),
    "truncated": (GOOD[:-1], "only 15,695 bytes"),
    "too long": (GOOD + b"\0", "more than that"),
    "test images": (idx(DIGITS[TRAIN:]), "a header that declares 10 images of 28x28 pixels"),
    "other size": (idx(DIGITS[:TRAIN, :27]), "a header that declares 20 images of 27x28 pixels"),
    "labels": (idx(np.zeros(100, np.uint8)), "labels"),
    "web page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    "something else": (b"PK\x03\x04" + bytes(100), "104 bytes that start with b'PK"),
    "truncated gzip": (ZIPPED[:-9], "a truncated one"),
    "gzip without its end": (ZIPPED[:-4], "a truncated one"),
    "gzip with a wrong sum": (ZIPPED[:-8] + bytes(8), "a broken one"),
    "gzip with rubbish in it": (ZIPPED[:20] + b"rubbish" + ZIPPED[27:], "a broken one"),
    "gzip of too much": (gzip.compress(GOOD + b"\0"), "more than that"),
    "gzip of nothing": (gzip.compress(b""), "an empty file"),
}
LABEL_FAULTS = {
    "empty": (b"", "an empty file"),
    "web page": (b"<html>", "a web page"),
    "truncated": (GOOD_LABELS[:-1], "27 bytes that start with"),
    "too long": (GOOD_LABELS + b"\0", "29 bytes that start with"),
    "of other images": (idx(DIGIT_LABELS[TRAIN:]), "18 bytes that start with"),
    "images": (GOOD, "29 bytes that start with"),
    "another count": (GOOD_LABELS.replace(bytes([TRAIN]), b"\x15", 1), "28 bytes that start with"),
    "no class": (idx(np.full(TRAIN, 10, np.uint8)), "label 10"),
    "truncated gzip": (gzip.compress(GOOD_LABELS)[:-4], "a truncated one"),
}
FAULTS = [(name, *fault) for name in (IMAGES, f"{IMAGES}.gz") for fault in IMAGE_FAULTS.values()]
FAULTS += [(LABELS, *fault) for fault in LABEL_FAULTS.values()]


@pytest.mark.parametrize(("name", "content", "found"), FAULTS, ids=[*IMAGE_FAULTS, *IMAGE_FAULTS, *LABEL_FAULTS])
def test_a_broken_idx_file_is_refused(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    write_mnist(tmp_path)
    (tmp_path / name.removesuffix(".gz")).unlink()
    assert refused(find_mnist, tmp_path, write(tmp_path / name, content)).startswith(found)


@pytest.mark.parametrize("name", [IMAGES, TEST_IMAGES, TEST_LABELS])
def test_half_a_data_set_is_refused(tmp_path: Path, name: str) -> None:
    (write_mnist(tmp_path) / name).unlink()
    assert refused(find_mnist, tmp_path, tmp_path / name).startswith("none")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    path = write_mnist(tmp_path) / IMAGES
    for make, found in (
        (path.mkdir, "a directory"),
        (partial(os.mkfifo, path), "a device, a socket or a pipe"),  # to open this would wait for a writer
        (partial(path.symlink_to, "/dev/zero"), "a device"),
        (partial(path.symlink_to, tmp_path / "moved away"), "No such file"),
        (partial(path.symlink_to, path), "Too many levels"),
    ):
        path.rmdir() if path.is_dir() else path.unlink()
        make()
        assert refused(find_mnist, tmp_path, path).startswith(found)


@pytest.mark.parametrize("locked", ["mnist", f"mnist/{IMAGES}"])
def test_what_may_not_be_read_is_refused(locked: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        write_mnist(folder / "mnist")
        (folder / locked).chmod(0)
        with without_rights_of_root():
            assert refused(find_mnist, folder, folder / "mnist" / IMAGES).startswith("Permission denied")
        (folder / locked).chmod(0o755)


def test_a_gzip_bomb_takes_no_more_memory_than_an_intact_file(tmp_path: Path) -> None:
    path = write(tmp_path / "bomb", gzip.compress(bytes(64 * 2**20)))
    with peak_memory() as peak:
        assert len(read(path, limit=1000)) == 1001
    assert peak() < 2**20


@given(st.binary(max_size=40) | st.integers(0, len(GOOD) - 1).map(lambda length: GOOD[:length]), st.booleans())
def test_arbitrary_bytes_and_shortened_files_are_never_taken_for_images(content: bytes, zipped: bool) -> None:
    with folder_with(IMAGES, gzip.compress(content) if zipped else content, write_mnist) as folder:
        refused(find_mnist, folder, folder / IMAGES)


def test_no_changed_bit_in_the_header_is_accepted(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    for bit in range(8 * 16):
        refused(find_mnist, tmp_path, write(tmp_path / IMAGES, flipped(GOOD, bit)))


@given(st.integers(0, 8 * len(ZIPPED) - 1))
def test_a_changed_bit_in_a_gzip_file_changes_no_pixel(bit: int) -> None:
    with folder_with(IMAGES, flipped(ZIPPED, bit), write_mnist) as folder:
        try:
            assert is_digits(find_mnist(folder))
        except DataError as error:
            assert str(error).startswith(str(folder / IMAGES))
