"""What a training step is to the rest of the house, and what decides how it is computed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from repro.model import VAE

Precision = Literal["float32", "mixed"]
Engine = Literal["auto", "fast", "plain"]


class Unsupported(Exception):  # noqa: N818 - not a fault: the caller takes the plain step
    """An engine does not cover this experiment, or this machine has not what it needs."""


@dataclass(frozen=True)
class Settings:
    """How steps are computed, beside the experiment. The same settings on the same machine give the same bits.

    `products` names the dense layers' matrix products, "" where the engine has no choice; see `products.py`.
    """

    device: str = "cpu"
    threads: int = 1
    precision: Precision = "float32"
    engine: Engine = "auto"
    products: str = ""


class Step(Protocol):
    """Trains a model in place. Costs are nats per image, means over a batch."""

    @property
    def settings(self) -> Settings:
        """As resolved: what `choose` needs to make the same step again."""

    @property
    def model(self) -> VAE:
        """What it trains."""

    def step(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """One step: reconstruction and KL before its update. uint8 [B, H, W, C], [L, B, D] -> two scalars."""

    def epoch(self, images: Tensor, order: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """Steps over whole batches of `images` in that order, float64 [n, 2] costs of each n steps that were done.

        uint8 [N, H, W, C], int64 [N], [L, N, D] by position in the order, all on the model's device.
        """

    def costs(self, images: Tensor, noise: Tensor) -> Tensor:
        """Negative ELBO of the weights as they are, reconstruction and KL in nats, summed over the images.

        uint8 [N, H, W, C], [1, N, D] -> float64 [2].
        """

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state, named alike by every engine; it shares memory with what the step works on."""

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back a state that any engine gave."""


def in_turn(step: Step, images: Tensor, order: Tensor, noise: Tensor, batch: int) -> Iterator[Tensor]:
    """`Step.epoch` by one call of `Step.step` after the other."""
    for first in range(0, len(images) - batch + 1, batch):
        chosen = slice(first, first + batch)
        costs = step.step(images.index_select(0, order[chosen]), noise[:, chosen])
        yield torch.stack(costs).double()[None]
