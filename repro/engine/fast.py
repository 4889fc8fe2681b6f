"""One training step on a CPU with hand-written gradients: what the plain step computes, faster.

A batch goes through the chain of layers and back; then each layer's own gradients are taken and its weights updated,
from the last layer to the first. PyTorch's own threads share the work of each operator.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from repro.engine.adam import Adam, load_state, named_state
from repro.engine.chain import Chain
from repro.engine.layers import Weights
from repro.engine.memory import keep_freed_memory
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
        parameters = {name: parameter.data for name, parameter in model.named_parameters()}
        self.names, self.heads = list(parameters), list(parameters).index("mean_head.weight") // 2
        weights = self._merge_heads(model)
        self.chain = Chain(experiment, weights, self.batch_size, products)
        self.adam = [Adam(experiment.optim, pair) for pair in weights]
        self.steps = torch.zeros(())

    @torch.no_grad()
    def step(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """One step. uint8 [B, H, W, C], [1, B, D] -> mean reconstruction and KL, nats per image."""
        self.steps += 1
        reconstruction, kl = self.chain.run(images, noise[0], 1 / self.batch_size)
        for layer, adam in reversed(list(zip(self.chain.trained, self.adam, strict=True))):
            adam.update(layer.weight_gradients(), self.steps)
        return reconstruction / self.batch_size, kl / self.batch_size

    def epoch(self, images: Tensor, order: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """An epoch, step by step; see `Step`."""
        return in_turn(self, images, order, noise, self.batch_size)

    @torch.no_grad()
    def costs(self, images: Tensor, noise: Tensor) -> Tensor:
        """Summed costs, whole batches by the chains, where these compute the ELBO, and the rest plainly; see `Step`."""
        whole = len(images) - len(images) % self.batch_size if self.exact else 0
        total = torch.zeros(2, dtype=torch.float64)
        for first in range(0, whole, self.batch_size):
            chosen = slice(first, first + self.batch_size)
            total += torch.stack(self.chain.costs(images[chosen], noise[0, chosen])).double()
        return total + summed_costs(self.model, images[whole:], noise[:, whole:]) if whole < len(images) else total

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state."""
        exp_avg = self._by_parameter([adam.exp_avg for adam in self.adam])
        exp_avg_sq = self._by_parameter([adam.exp_avg_sq for adam in self.adam])
        return named_state(self.names, exp_avg, exp_avg_sq, self.steps)

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put a state back."""
        load_state(self.state(), tensors)

    def _merge_heads(self, model: VAE) -> list[Weights]:
        """Weight and bias of each layer. The heads, two layers of the model, become views of one."""
        heads = model.mean_head, model.log_variance_head
        weight = torch.cat([head.weight.data for head in heads])
        bias = torch.cat([head.bias.data for head in heads])
        for head, part, part_bias in zip(heads, weight.chunk(2), bias.chunk(2), strict=True):
            head.weight.data, head.bias.data = part, part_bias
        flat = [parameter.data for parameter in model.parameters()]
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        return [*pairs[: self.heads], (weight, bias), *pairs[self.heads + 2 :]]

    def _by_parameter(self, pairs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """What belongs to each layer's weight and bias, in the order of the model's parameters."""
        split = [*zip(*(each.chunk(2) for each in pairs[self.heads]), strict=True)]
        return [each for pair in (*pairs[: self.heads], *split, *pairs[self.heads + 1 :]) for each in pair]
