"""The embedded stand-ins: their shapes, pixels, labels and parts."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from repro.data import load, stand_in
from repro.spec import Data


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))])
def test_a_stand_in_has_the_shape_of_what_it_stands_for_and_no_test_image_in_training(
    name: str, shape: tuple[int, ...]
) -> None:
    whole = load(Data(name), "stand-in")  # type: ignore[arg-type]
    split = load(Data(name, holdout=5000), "stand-in")  # type: ignore[arg-type]
    for part in (whole.train, whole.test, split.train, split.heldout):
        assert (part.dtype, part.shape[1:], int(part.min())) == (torch.uint8, shape, 0)
        assert part.max() >= 250
    assert len(whole.train) >= 1000
    assert 0.05 <= len(split.heldout) / len(whole.train) <= 0.15
    parts = {"mnist": [split.heldout, split.train], "cifar10": [split.train, split.heldout]}[name]
    assert torch.equal(torch.cat(parts), whole.train)
    train, test = ({image.numpy().tobytes() for image in part} for part in (whole.train, whole.test))
    assert not train & test


def test_the_digits_have_the_same_pixels_everywhere_and_the_labels_of_their_digits() -> None:
    found = load(Data("mnist", holdout=5000), "stand-in")
    assert found.fingerprint == "0733a3c305dfccb70d74f4b24877ac2dd7251629cc068b4a5de9fa471089abb7"
    zeros, ones = (found.train[found.train_labels == digit].float().mean(0)[..., 0] for digit in (0, 1))
    assert zeros[14, 14] < 0.3 * ones[14, 14]  # a nought is hollow
    assert load(Data("cifar10"), "stand-in").train_labels is None


def test_no_two_patches_are_alike_and_none_of_training_overlaps_one_of_test(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every pixel holds its position: the low bytes of column and row, then their high bytes and its photograph.
    row, column = np.indices((427, 640))
    photographs = [np.stack([column, row, 100 * i + 10 * (column >> 8) + (row >> 8)], axis=-1) for i in (0, 1)]
    sample = SimpleNamespace(images=[photograph.astype(np.uint8) for photograph in photographs])
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: sample)
    train, test = (part.astype(int) for part in stand_in.cifar10())
    for part in (train, test):
        assert len({tuple(patch[0, 0]) for patch in part}) == len(part)
        assert set((part[..., 2] // 100).flat) == {0, 1}
    column_train, column_test = (part[..., 0] + 256 * (part[..., 2] // 10 % 10) for part in (train, test))
    assert column_train.max() < column_test.min()
