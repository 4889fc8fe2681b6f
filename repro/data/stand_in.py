"""Stand-ins for MNIST and CIFAR-10: images that come with scikit-learn, in the same shapes.

They are made by integer arithmetic, so that they have the same pixels and the same fingerprint on every machine.
"""

import numpy as np

from repro.data.files import Labels, Pixels

MNIST = "scikit-learn's handwritten digits, enlarged to 28x28"
CIFAR10 = "32x32 patches of scikit-learn's two sample photographs"

StandIn = tuple[tuple[Pixels, Pixels], tuple[Labels, Labels] | None]
"""Images, and labels if there are any: each of training and test."""

_TRAIN_DIGITS = 1500  # of 1797, in the order of their writers


def mnist() -> StandIn:
    """Return handwritten digits, train [1500, 28, 28, 1] and test [297, 28, 28, 1], and their classes."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow, for a stand-in only

    loaded = load_digits()
    labels = loaded.target.astype(np.uint8)
    digits = loaded.images.astype(np.int64)  # [1797, 8, 8], values 0 to 16
    # linear interpolation from 8 to 20 points, in tenths of a pixel; as in MNIST, the digit fills 20x20 of 28x28
    weights = np.maximum(0, 10 - abs(4 * np.arange(20)[:, None] - 3 - 10 * np.arange(8)))
    enlarged = (weights @ digits @ weights.T * 255) // (16 * 10 * 10)
    images = np.pad(enlarged, ((0, 0), (4, 4), (4, 4))).astype(np.uint8)[..., None]
    train, test = slice(None, _TRAIN_DIGITS), slice(_TRAIN_DIGITS, None)
    return (images[train], images[test]), (labels[train], labels[test])


def cifar10() -> StandIn:
    """Return patches of photographs: train [2000, 32, 32, 3] from the left four fifths, test [400, 32, 32, 3].

    They have no labels. Train and test patches share no pixel of a photograph.
    """
    from sklearn.datasets import load_sample_images  # noqa: PLC0415 - slow, for a stand-in only

    photographs = np.stack(load_sample_images().images)  # [2, 427, 640, 3]
    windows = np.lib.stride_tricks.sliding_window_view(photographs, (32, 32), axis=(1, 2))[:, :400:16]
    train, test = (
        windows[:, :, columns].transpose(0, 1, 2, 4, 5, 3).reshape(-1, 32, 32, 3)
        for columns in (slice(0, 480, 12), slice(512, 608, 12))
    )
    mixed = np.arange(len(train)) * 739 % len(train)  # so that the held-out first tenth is like the rest
    return (train[mixed], test), None
