"""The training step on a CPU with hand-written gradients. It computes what the plain step computes, faster.

Each layer's weights are updated on the way back, while its gradient is in the processor's cache. PyTorch's own threads
share the work of each operator.
"""

from dataclasses import replace

import torch
from torch import Tensor

from repro.engine.adam import Adam, named_state
from repro.engine.fast.layers import Trained
from repro.engine.fast.memory import keep_freed_memory
from repro.engine.fast.network import Network
from repro.engine.fast.products import products_for
from repro.engine.plain import summed_costs
from repro.engine.step import Settings, Step
from repro.model import VAE
from repro.spec import Experiment


class FastStep(Step):
    """Covers the pathwise estimator with one sample and the Bernoulli likelihood, on a CPU.

    The weights of the model's two heads become views of one tensor. Raises Unsupported for an experiment that it does
    not cover, and what torch raises for missing operators.
    """

    def __init__(self, experiment: Experiment, model: VAE, settings: Settings) -> None:
        keep_freed_memory()
        products = products_for(settings.products, settings.precision)
        self.settings = replace(settings, engine="fast", products=products.name)
        self.model, self.batch_size = model, experiment.training.batch_size
        self.trains_elbo = settings.precision == "float32" and experiment.training.kl == "closed_form"
        self.network = Network(model, experiment.training, products)
        self.adam = {layer: Adam(experiment.optim, (layer.weight, layer.bias)) for layer in self.network.trained}
        self.steps = torch.zeros(())

    @torch.no_grad()
    def step(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        self.steps += 1
        reconstruction, kl = self.network.train(images, noise[0], 1 / self.batch_size, self._update)
        return reconstruction / self.batch_size, kl / self.batch_size

    @torch.no_grad()
    def costs(self, images: Tensor, noise: Tensor) -> Tensor:
        # the network computes the whole batches, the plain functions the rest; all, if training has other costs
        whole = len(images) - len(images) % self.batch_size if self.trains_elbo else 0
        total = torch.zeros(2, dtype=torch.float64)
        for first in range(0, whole, self.batch_size):
            batch = slice(first, first + self.batch_size)
            total += torch.stack(self.network.costs(images[batch], noise[0, batch])).double()
        return total + summed_costs(self.model, images[whole:], noise[:, whole:]) if whole < len(images) else total

    def state(self) -> dict[str, Tensor]:
        exp_avg, exp_avg_sq = (self._by_parameter(key) for key in ("exp_avg", "exp_avg_sq"))
        return named_state([name for name, _ in self.model.named_parameters()], exp_avg, exp_avg_sq, self.steps)

    def _update(self, layer: Trained) -> None:
        self.adam[layer].update(layer.gradients, self.steps)

    def _by_parameter(self, moment: str) -> list[Tensor]:
        """Return one moment of Adam for each of the model's parameters, in their order. The heads' is cut in two."""
        found: list[Tensor] = []
        for layer, adam in self.adam.items():
            parts = 2 if layer is self.network.heads else 1
            for pair in zip(*(each.chunk(parts) for each in getattr(adam, moment)), strict=True):
                found += pair
        return found
