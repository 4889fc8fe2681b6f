"""Synthetic images and the order in which training takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from repro.benchmarks.peers.workload import Workload

Pixels = npt.NDArray[np.uint8]


def synthetic(workload: Workload, seed: int) -> Pixels:
    """Return training images of a soft spot on black, random in position, size and colour. -> [N, H, W, C]."""
    (height, width, channels), count = workload.image, workload.images
    generator = np.random.default_rng(seed)
    size = generator.uniform(0.08, 0.2, (count, 1))
    rows, columns = (
        np.exp(-(((np.arange(length) / length - generator.uniform(0.2, 0.8, (count, 1))) / size) ** 2)).astype("f4")
        for length in (height, width)
    )
    colours = generator.uniform(128, 255, (count, channels)).astype("f4")
    images = np.empty((count, height, width, channels), np.uint8)
    for first in range(0, count, 1000):  # in pieces, to use little memory
        part = slice(first, first + 1000)
        images[part] = np.einsum("nh,nw,nc->nhwc", rows[part], columns[part], colours[part])
    return images


def as_floats(images: Pixels) -> npt.NDArray[np.float32]:
    """Return pixels in [0, 1]. -> float32 [N, H, W, C]."""
    return np.divide(images, 255, dtype=np.float32)


def batches(workload: Workload, seed: int) -> Iterator[npt.NDArray[np.int32]]:
    """Yield the indices of each step's images, epoch after epoch, without end. -> int32 [B] each."""
    generator, order = np.random.default_rng(seed), np.arange(workload.images, dtype=np.int32)
    while True:
        if workload.shuffle:
            generator.shuffle(order)
        for step in range(workload.steps_per_epoch):
            yield order[step * workload.batch_size : (step + 1) * workload.batch_size].copy()
