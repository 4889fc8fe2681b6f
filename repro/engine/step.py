"""The interface of a training step, and the settings that decide how it is computed."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from repro.model import VAE

Precision = Literal["float32", "mixed"]
Engine = Literal["auto", "fast", "plain"]


class Unsupported(Exception):  # noqa: N818 - not a fault: the caller takes the plain step
    """Raised if an engine does not cover an experiment, or the machine lacks what the engine needs."""


@dataclass(frozen=True)
class Settings:
    """How steps are computed. The same experiment and settings on the same machine give the same bits.

    `products` names the library of the dense layers' matrix products (see `fast/products.py`), "" for an engine that
    has no choice.
    """

    device: str = "cpu"
    threads: int = 1
    precision: Precision = "float32"
    engine: Engine = "auto"
    products: str = ""


class Step(ABC):
    """Trains `model` in place. `settings` are resolved: `choose` makes the same step from them again."""

    settings: Settings
    model: VAE
    batch_size: int

    @abstractmethod
    def step(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Train on one batch. Return reconstruction and KL before the update, nats per image, means over the batch.

        uint8 [B, H, W, C], [L, B, D] -> [], [].
        """

    def epoch(self, images: Tensor, order: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """Train on the whole batches of `images` in the given order. Yield the costs of each n steps, float64 [n, 2].

        uint8 [N, H, W, C], int64 [N], [L, N, D], all on the model's device. `noise` is indexed by position in the
        order.
        """
        for first in range(0, len(images) - self.batch_size + 1, self.batch_size):
            batch = slice(first, first + self.batch_size)
            costs = self.step(images.index_select(0, order[batch]), noise[:, batch])
            yield torch.stack(costs).double()[None]

    @abstractmethod
    def costs(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return reconstruction and KL of the negative ELBO, nats, summed over the images.

        uint8 [N, H, W, C], [1, N, D] -> float64 [2].
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return the optimiser's state by names that all engines share. The tensors are the step's own memory."""

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Load a state that `state` of any engine returned."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])
