"""How the files of MNIST and CIFAR-10 are found, checked and read; on small files of the same formats."""

import gzip
import os
import pickle
import random
import struct
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.data import cifar10, mnist
from repro.data.files import AbsentError, Images, md5, read
from repro.errors import DataError

TRAIN, TEST, BATCH = 20, 10, 4  # images in the small files of these tests

find_mnist = partial(mnist.find, train_images=TRAIN, test_images=TEST)
find_cifar = partial(cifar10.find, batch_images=BATCH)

RANDOM = np.random.default_rng(0)
DIGITS = RANDOM.integers(0, 256, (TRAIN + TEST, 28, 28), np.uint8)
PLANES = RANDOM.integers(0, 256, (6, BATCH, 3 * 32 * 32), np.uint8)
TRAIN_FILE, TEST_FILE = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"


def idx(pixels: np.ndarray) -> bytes:
    """An idx file of images [N, H, W], or of labels [N]."""
    return struct.pack(f">{1 + pixels.ndim}I", 2048 + pixels.ndim, *pixels.shape) + pixels.tobytes()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_mnist(folder: Path, pack: Callable[[bytes], bytes] = bytes, joint: str = "-", suffix: str = "") -> Path:
    for part, pixels in (("train", DIGITS[:TRAIN]), ("t10k", DIGITS[TRAIN:])):
        write(folder / f"{part}-images{joint}idx3-ubyte{suffix}", pack(idx(pixels)))
    return folder


def python_2_batch(planes: np.ndarray) -> bytes:
    """A batch as python 2 and numpy 1 pickled it, which is how CIFAR-10 was published."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08("
        + b"K\x01" + b"J" + struct.pack("<i", planes.shape[0]) + b"M" + struct.pack("<H", planes.shape[1]) + b"\x86"
        + b"cnumpy\ndtype\nq\x09U\x02u1K\x00K\x01\x87Rq\x0a(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89T" + struct.pack("<i", planes.size) + planes.tobytes() + b"tb"
    )  # fmt: skip
    labels = b"U\x06labelsq\x02]q\x03(" + b"K\x07" * len(planes) + b"e"
    return b"\x80\x02}q\x01(" + labels + b"U\x04dataq\x05" + array + b"u."


def python_3_batch(planes: np.ndarray, protocol: int = 4) -> bytes:
    return pickle.dumps({"labels": [7] * len(planes), "data": planes}, protocol)


def binary_batch(planes: np.ndarray) -> bytes:
    return np.insert(planes, 0, 7, axis=1).tobytes()


def write_python(folder: Path, batch: Callable[[np.ndarray], bytes] = python_2_batch) -> Path:
    for name, planes in zip(cifar10.MD5, PLANES, strict=True):
        write(folder / name, batch(planes))
    return folder


def write_binary(folder: Path) -> Path:
    for name, planes in zip(cifar10.MD5, PLANES, strict=True):
        write(folder / f"{name}.bin", binary_batch(planes))
    return folder


def is_digits(found: Images) -> bool:
    return np.array_equal(np.concatenate([found.train, found.test])[..., 0], DIGITS)


def refused(find: Callable[[Path], Images], root: Path, path: Path) -> str:
    """What the error says was found, having checked that it names the file, what was expected and what to do."""
    with pytest.raises(DataError) as caught:
        find(root)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected ")
    assert "Put an intact copy in its place" in message
    return message.split(", found ", 1)[1]


# MNIST


@pytest.mark.parametrize("folder", [".", "mnist", "MNIST", "MNIST/raw"])
@pytest.mark.parametrize("joint", ["-", "."])
@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (gzip.compress, ".gz")])
def test_mnist_is_read_under_all_its_usual_names(
    tmp_path: Path, folder: str, joint: str, pack: Callable[[bytes], bytes], suffix: str
) -> None:
    write_mnist(tmp_path / folder, pack, joint, suffix)
    found = find_mnist(tmp_path)
    assert is_digits(found)
    assert found.train.shape == (TRAIN, 28, 28, 1)
    assert found.folder == tmp_path / folder
    assert found.status == "unverified"


def test_the_content_and_not_the_name_says_whether_a_file_is_gzip(tmp_path: Path) -> None:
    # Browsers unpack .gz files without renaming them.
    assert is_digits(find_mnist(write_mnist(tmp_path / "a", suffix=".gz")))
    assert is_digits(find_mnist(write_mnist(tmp_path / "b", gzip.compress)))


def test_linked_files_are_read(tmp_path: Path) -> None:
    write_mnist(tmp_path / "elsewhere")
    (tmp_path / "named").mkdir()
    for name in (TRAIN_FILE, TEST_FILE):
        (tmp_path / "named" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert is_digits(find_mnist(tmp_path / "named"))


def test_a_file_is_preferred_to_a_folder_of_nearly_the_same_name(tmp_path: Path) -> None:
    write_mnist(tmp_path, joint=".")
    (tmp_path / TRAIN_FILE).mkdir()
    assert is_digits(find_mnist(tmp_path))


def test_mnist_is_canonical_only_if_both_checksums_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    sums = tuple(md5((tmp_path / name).read_bytes()) for name in (TRAIN_FILE, TEST_FILE))
    for known, status in ((sums, "canonical"), ((sums[0], "0"), "unverified"), (("0", sums[1]), "unverified")):
        monkeypatch.setattr(mnist, "MD5", known)
        assert find_mnist(tmp_path).status == status


def test_nothing_there_is_absence_and_not_a_fault(tmp_path: Path) -> None:
    write(tmp_path / "train-labels-idx1-ubyte", b"labels are not images")
    for root in (tmp_path, tmp_path / "missing"):
        with pytest.raises(AbsentError):
            find_mnist(root)
        with pytest.raises(AbsentError):
            find_cifar(root)


GOOD = idx(DIGITS[:TRAIN])
MNIST_FAULTS = {
    "empty": (b"", "an empty file"),
    "short header": (GOOD[:15], "15 bytes that start with"),
    "truncated": (GOOD[:-1], "only 15,695 bytes"),
    "too long": (GOOD + b"\0", "more than that"),
    "test images": (idx(DIGITS[TRAIN:]), "a header that declares 10 images of 28x28 pixels"),
    "other size": (idx(DIGITS[:TRAIN, :27]), "a header that declares 20 images of 27x28 pixels"),
    "labels": (idx(np.zeros(100, np.uint8)), "labels"),
    "web page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    "something else": (b"PK\x03\x04" + bytes(100), "104 bytes that start with b'PK"),
    "truncated gzip": (gzip.compress(GOOD)[:-9], "a truncated one"),
    "gzip without its end": (gzip.compress(GOOD)[:-4], "a truncated one"),
    "gzip with a wrong sum": (gzip.compress(GOOD)[:-8] + bytes(8), "a broken one"),
    "gzip with rubbish in it": (gzip.compress(GOOD)[:20] + b"rubbish" + gzip.compress(GOOD)[27:], "a broken one"),
    "gzip of too much": (gzip.compress(GOOD + b"\0"), "more than that"),
    "gzip of nothing": (gzip.compress(b""), "an empty file"),
}


@pytest.mark.parametrize("name", [TRAIN_FILE, f"{TRAIN_FILE}.gz"])
@pytest.mark.parametrize(("content", "found"), MNIST_FAULTS.values(), ids=MNIST_FAULTS)
def test_a_broken_idx_file_is_refused(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    write(tmp_path / TEST_FILE, idx(DIGITS[TRAIN:]))
    path = write(tmp_path / name, content)
    assert refused(find_mnist, tmp_path, path).startswith(found)


def test_half_a_data_set_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / TEST_FILE).unlink()
    assert refused(find_mnist, tmp_path, tmp_path / TEST_FILE).startswith("none")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / TRAIN_FILE
    path.unlink()
    path.mkdir()
    assert refused(find_mnist, tmp_path, path).startswith("a directory")
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert refused(find_mnist, tmp_path, path).startswith("a device")
    path.unlink()
    os.mkfifo(path)  # to open this would wait for a writer
    assert refused(find_mnist, tmp_path, path).startswith("a device, a socket or a pipe")
    path.unlink()
    path.symlink_to(tmp_path / "moved away")
    assert refused(find_mnist, tmp_path, path).startswith("No such file")
    path.unlink()
    path.symlink_to(path)
    assert refused(find_mnist, tmp_path, path).startswith("Too many levels")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, if the tests have them."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("locked", ["mnist", f"mnist/{TRAIN_FILE}"])
def test_what_may_not_be_read_is_refused(locked: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        write_mnist(folder / "mnist")
        (folder / locked).chmod(0)
        with as_nobody():
            assert refused(find_mnist, folder, folder / "mnist" / TRAIN_FILE).startswith("Permission denied")
        (folder / locked).chmod(0o755)


@contextmanager
def memory() -> Iterator[Callable[[], int]]:
    """The most bytes that were allocated at a time in the block."""
    tracemalloc.start()
    try:
        yield lambda: peak
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def test_a_gzip_bomb_takes_no_more_memory_than_an_intact_file(tmp_path: Path) -> None:
    path = write(tmp_path / "bomb", gzip.compress(bytes(64 * 2**20)))
    with memory() as peak:
        assert len(read(path, limit=1000)) == 1001
    assert peak() < 2**20


@contextmanager
def folder_with(name: str, content: bytes, fill: Callable[[Path], Path]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder))
        write(Path(folder) / name, content)
        yield Path(folder)


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(st.binary(max_size=40) | st.binary(max_size=40).map(gzip.compress))
def test_arbitrary_bytes_are_never_taken_for_images(content: bytes) -> None:
    with folder_with(TRAIN_FILE, content, write_mnist) as folder:
        refused(find_mnist, folder, folder / TRAIN_FILE)


@given(st.integers(0, len(GOOD) - 1), st.sampled_from([bytes, gzip.compress]))
def test_no_shortened_idx_file_is_accepted(length: int, pack: Callable[[bytes], bytes]) -> None:
    with folder_with(TRAIN_FILE, pack(GOOD[:length]), write_mnist) as folder:
        refused(find_mnist, folder, folder / TRAIN_FILE)


@pytest.mark.parametrize("bit", range(8 * 16))
def test_no_changed_bit_in_the_header_is_accepted(tmp_path: Path, bit: int) -> None:
    write_mnist(tmp_path)
    refused(find_mnist, tmp_path, write(tmp_path / TRAIN_FILE, flipped(GOOD, bit)))


ZIPPED = gzip.compress(GOOD)


@given(st.integers(0, 8 * len(ZIPPED) - 1))
def test_a_changed_bit_in_a_gzip_file_changes_no_pixel(bit: int) -> None:
    with folder_with(TRAIN_FILE, flipped(ZIPPED, bit), write_mnist) as folder:
        try:
            assert is_digits(find_mnist(folder))
        except DataError as error:
            assert str(error).startswith(str(folder / TRAIN_FILE))


# CIFAR-10


@pytest.mark.parametrize("parent", [".", "cifar10"])
@pytest.mark.parametrize("layout", ["cifar-10-batches-py", "cifar-10-batches-bin", "."])
def test_cifar_is_found_in_its_usual_folders(tmp_path: Path, parent: str, layout: str) -> None:
    folder = tmp_path / parent / layout
    (write_binary if layout.endswith("bin") else write_python)(folder)
    assert find_cifar(tmp_path).folder == folder


@pytest.mark.parametrize(
    "fill",
    [
        write_binary,
        write_python,
        *(partial(write_python, batch=partial(python_3_batch, protocol=protocol)) for protocol in range(5)),
    ],
)
def test_all_layouts_of_cifar_hold_the_same_images(tmp_path: Path, fill: Callable[[Path], Path]) -> None:
    found = find_cifar(fill(tmp_path))
    assert (found.train.shape, found.test.shape) == ((5 * BATCH, 32, 32, 3), (BATCH, 32, 32, 3))
    images = np.concatenate([found.train, found.test])
    for image, row, column, channel in ((0, 0, 0, 0), (5, 31, 2, 1), (23, 7, 31, 2)):
        planes = PLANES[image // BATCH, image % BATCH]
        assert images[image, row, column, channel] == planes[channel * 1024 + row * 32 + column]
    assert np.array_equal(images.transpose(0, 3, 1, 2).reshape(PLANES.shape), PLANES)


def test_the_checksums_are_those_that_torchvision_compares() -> None:
    from torchvision.datasets import CIFAR10  # noqa: PLC0415

    assert list(map(list, cifar10.MD5.items())) == CIFAR10.train_list + CIFAR10.test_list


def test_cifar_is_canonical_only_in_the_python_layout_with_every_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_python(tmp_path / "py")
    sums = {name: md5((tmp_path / "py" / name).read_bytes()) for name in cifar10.MD5}
    monkeypatch.setattr(cifar10, "MD5", sums)
    assert find_cifar(tmp_path / "py").status == "canonical"
    assert find_cifar(write_binary(tmp_path / "bin")).status == "unverified"
    write(tmp_path / "py" / "data_batch_3", python_2_batch(PLANES[0] ^ 1))
    assert find_cifar(tmp_path / "py").status == "unverified"
    write(tmp_path / "py" / "data_batch_3", python_2_batch(PLANES[5]))
    said = refused(find_cifar, tmp_path / "py", tmp_path / "py" / "data_batch_3")
    assert said.startswith("the content of test_batch")


BINARY = binary_batch(PLANES[1])
BINARY_FAULTS = {
    "empty": (b"", "an empty file"),
    "truncated": (BINARY[:-1], "12,291 bytes that start with"),
    "too long": (BINARY + b"\0", "more than 12,292 bytes"),
    "web page": (b"<html>", "a web page"),
    "label": (BINARY[:3073] + b"\x0a" + BINARY[3074:], "label 10 in record 1"),
    "random bytes": (random.Random(0).randbytes(len(BINARY)), "label "),
    "python layout": (python_2_batch(PLANES[1])[:3073 * 4], "label "),
}  # fmt: skip


@pytest.mark.parametrize(("content", "found"), BINARY_FAULTS.values(), ids=BINARY_FAULTS)
def test_a_broken_binary_batch_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    write_binary(tmp_path)
    path = write(tmp_path / "data_batch_2.bin", content)
    assert refused(find_cifar, tmp_path, path).startswith(found)


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
        "a buffer of 256 MB": b"\x80\x05\x96" + struct.pack("<Q", 2**28) + b".",
        "a string that is cut off": b"\x80\x02T\xff\xff\xff\x7fabc.",
    }


@pytest.mark.parametrize("case", hostile_batches(""))
def test_a_hostile_pickle_is_refused_and_does_nothing(tmp_path: Path, case: str) -> None:
    write_python(tmp_path)
    path = write(tmp_path / "test_batch", hostile_batches(str(tmp_path / "trace"))[case])
    with memory() as peak:
        refused(find_cifar, tmp_path, path)
    assert peak() < 2**24
    assert not (tmp_path / "trace").exists()


PYTHON_FAULTS = {
    "empty": b"",
    "web page": b"<html>",
    "truncated": python_2_batch(PLANES[0])[:-1],
    "too long": python_2_batch(PLANES[0]) + bytes(3 * 2**20),
    "too few images": python_2_batch(PLANES[0][:-1]),
    "wider numbers": python_3_batch(PLANES[0].astype(np.uint16)),
    "other order": python_3_batch(np.asfortranarray(PLANES[0])),
    "a list": pickle.dumps({"data": PLANES[0].tolist()}),
    "no pixels": pickle.dumps({"labels": [1]}),
    "no dictionary": pickle.dumps([1]),
    "binary layout": BINARY,
}


@pytest.mark.parametrize("content", PYTHON_FAULTS.values(), ids=PYTHON_FAULTS)
def test_a_broken_python_batch_is_refused(tmp_path: Path, content: bytes) -> None:
    write_python(tmp_path)
    refused(find_cifar, tmp_path, write(tmp_path / "data_batch_4", content))


def test_a_missing_batch_is_refused(tmp_path: Path) -> None:
    write_binary(tmp_path)
    (tmp_path / "data_batch_5.bin").unlink()
    assert refused(find_cifar, tmp_path, tmp_path / "data_batch_5.bin").startswith("none")


@given(st.binary(max_size=60) | st.lists(st.sampled_from([bytes([i]) for i in range(128)])).map(b"".join))
def test_arbitrary_bytes_are_never_taken_for_a_batch(content: bytes) -> None:
    for name, fill in (("data_batch_1", write_python), ("data_batch_1.bin", write_binary)):
        with folder_with(name, content, fill) as folder:
            refused(find_cifar, folder, folder / name)


BATCHES = [python_2_batch(PLANES[0]), python_3_batch(PLANES[0], 2), python_3_batch(PLANES[0], 4)]


@given(st.sampled_from(BATCHES), st.floats(0, 1, exclude_max=True))
def test_no_shortened_python_batch_is_accepted(content: bytes, part: float) -> None:
    with folder_with("data_batch_1", content[: int(part * len(content))], write_python) as folder:
        refused(find_cifar, folder, folder / "data_batch_1")


@settings(max_examples=300)
@given(st.sampled_from(BATCHES), st.integers(0, 8 * 250 - 1), st.booleans())
def test_a_changed_bit_in_a_python_batch_is_refused_or_does_no_harm(content: bytes, bit: int, at_end: bool) -> None:
    changed = flipped(content, 8 * len(content) - 1 - bit if at_end else bit)
    with folder_with("data_batch_1", changed, write_python) as folder:
        try:
            assert find_cifar(folder).train.shape == (5 * BATCH, 32, 32, 3)
        except DataError as error:
            assert str(error).startswith(str(folder / "data_batch_1"))
