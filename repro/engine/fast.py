"""One training step on a CPU with hand-written gradients: what the plain step computes, faster.

A batch goes through the network and back, and each layer's weights are updated on the way back. PyTorch's own threads
share the work of each operator.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from repro.engine.adam import Adam, load_state, named_state
from repro.engine.layers import Trained
from repro.engine.memory import keep_freed_memory
from repro.engine.network import Network
from repro.engine.plain import summed_costs
from repro.engine.products import products_for
from repro.engine.step import Settings, in_turn
from repro.model import VAE
from repro.spec import Experiment


class FastStep:
    """Trains `model` in place, whose two heads become views of one tensor. See `Step` for the interface.

    Raises Unsupported for an experiment that it does not cover, and what torch raises for operators that are missing.
    """

    def __init__(self, experiment: Experiment, model: VAE, settings: Settings) -> None:
        keep_freed_memory()
        products = products_for(settings.products, settings.precision)
        self.settings = replace(settings, engine="fast", products=products.name)
        self.model, self.batch_size = model, experiment.training.batch_size
        self.exact = settings.precision == "float32" and experiment.training.kl == "closed_form"
        self.network = Network(model, experiment.training, products)
        self.adam = {layer: Adam(experiment.optim, (layer.weight, layer.bias)) for layer in self.network.trained}
        self.steps = torch.zeros(())

    @torch.no_grad()
    def step(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """One step. uint8 [B, H, W, C], [1, B, D] -> mean reconstruction and KL, nats per image."""
        self.steps += 1
        reconstruction, kl = self.network.train(images, noise[0], 1 / self.batch_size, self._update)
        return reconstruction / self.batch_size, kl / self.batch_size

    def epoch(self, images: Tensor, order: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """An epoch, step by step; see `Step`."""
        return in_turn(self, images, order, noise, self.batch_size)

    @torch.no_grad()
    def costs(self, images: Tensor, noise: Tensor) -> Tensor:
        """Summed costs, whole batches by the network, where it computes the ELBO, and the rest plainly; see `Step`."""
        whole = len(images) - len(images) % self.batch_size if self.exact else 0
        total = torch.zeros(2, dtype=torch.float64)
        for first in range(0, whole, self.batch_size):
            chosen = slice(first, first + self.batch_size)
            total += torch.stack(self.network.costs(images[chosen], noise[0, chosen])).double()
        return total + summed_costs(self.model, images[whole:], noise[:, whole:]) if whole < len(images) else total

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state."""
        exp_avg, exp_avg_sq = (self._by_parameter(key) for key in ("exp_avg", "exp_avg_sq"))
        return named_state([name for name, _ in self.model.named_parameters()], exp_avg, exp_avg_sq, self.steps)

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put a state back."""
        load_state(self.state(), tensors)

    def _update(self, layer: Trained) -> None:
        self.adam[layer].update(layer.gradients, self.steps)

    def _by_parameter(self, moment: str) -> list[Tensor]:
        """One moment of Adam for each of the model's parameters, in their order; the heads' are cut in two."""
        found: list[Tensor] = []
        for layer, adam in self.adam.items():
            parts = 2 if layer is self.network.heads else 1
            for pair in zip(*(each.chunk(parts) for each in getattr(adam, moment)), strict=True):
                found += pair
        return found
