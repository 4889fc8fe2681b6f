"""The embedded stand-ins: their shapes, pixels, labels and parts."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from repro.data import load, stand_in
from repro.spec import Data


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))])
def test_a_stand_in_has_the_shape_of_what_it_stands_for(name: str, shape: tuple[int, ...]) -> None:
    whole = load(Data(name), "stand-in")  # type: ignore[arg-type]
    split = load(Data(name, holdout=5000), "stand-in")  # type: ignore[arg-type]
    for part in (whole.train, whole.test, split.train, split.heldout):
        assert part.dtype == torch.uint8
        assert part.shape[1:] == shape
        assert part.is_contiguous()
        assert part.min() == 0
        assert part.max() >= 250
    assert len(whole.train) >= 1000
    assert len(whole.train) % 100 == len(split.train) % 100 == 0
    assert 0.05 <= len(split.heldout) / len(whole.train) <= 0.15
    parts = {"mnist": [split.heldout, split.train], "cifar10": [split.train, split.heldout]}[name]
    assert torch.equal(torch.cat(parts), whole.train)
    assert split.fingerprint == whole.fingerprint
    train, test = ({image.numpy().tobytes() for image in part} for part in (whole.train, whole.test))
    assert not train & test


def test_the_digits_have_the_same_pixels_everywhere() -> None:
    expected = "0733a3c305dfccb70d74f4b24877ac2dd7251629cc068b4a5de9fa471089abb7"
    assert load(Data("mnist"), "stand-in").fingerprint == expected


def test_the_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits  # noqa: PLC0415

    train, test = stand_in.mnist()
    images = torch.from_numpy(np.concatenate([train, test])).permute(0, 3, 1, 2).float()
    digits = torch.from_numpy(load_digits().images).float()[:, None] * 255 / 16
    # By another road; the outermost pixels differ, since there the stand-in fades to black.
    enlarged = torch.nn.functional.interpolate(digits, size=(20, 20), mode="bilinear", align_corners=False)
    assert (images[..., 4:-4, 4:-4] - enlarged)[..., 1:-1, 1:-1].abs().max() < 1
    assert images[..., :4, :].max() == images[..., -4:, :].max() == 0


def test_the_digits_have_their_labels_and_the_photographs_none() -> None:
    found = load(Data("mnist", holdout=5000), "stand-in")
    for part in ("train", "heldout", "test"):
        assert len(getattr(found, f"{part}_labels")) == len(getattr(found, part))
    zeros, ones = (found.train[found.train_labels == digit].float().mean(0)[..., 0] for digit in (0, 1))
    assert zeros[14, 14] < 0.3 * ones[14, 14]  # a nought is hollow
    assert load(Data("cifar10"), "stand-in").train_labels is None


def test_every_patch_is_another_and_none_of_training_overlaps_one_of_test(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every pixel holds its place: the low bytes of column and row, then their high bytes and its photograph.
    row, column = np.indices((427, 640))
    photographs = [np.stack([column, row, 100 * i + 10 * (column >> 8) + (row >> 8)], axis=-1) for i in (0, 1)]
    sample = SimpleNamespace(images=[photograph.astype(np.uint8) for photograph in photographs])
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: sample)
    train, test = (part.astype(int) for part in stand_in.cifar10())
    for part in (train, test):
        assert len({tuple(patch[0, 0]) for patch in part}) == len(part)
        assert set((part[..., 2] // 100).flat) == {0, 1}
        assert (np.diff(part[..., 0], axis=2) % 256 == 1).all()
        assert (np.diff(part[..., 1], axis=1) % 256 == 1).all()
    column_train, column_test = (part[..., 0] + 256 * (part[..., 2] // 10 % 10) for part in (train, test))
    assert column_train.max() < column_test.min()
