"""One training step on a CPU with hand-written gradients: what the plain step computes, faster.

Several workers share the batch: each runs its images forward and back by itself; when all are through, each takes the
weight gradients of its share of every layer's rows, from all images, and updates these rows. They wait for each other
twice a step, where threads inside every product would do so at each of some hundred operators.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from repro.engine.adam import Adam, load_state, named_state
from repro.engine.chain import Chain
from repro.engine.crew import crew, one_thread
from repro.engine.layers import Dense, Weights
from repro.engine.memory import keep_freed_memory
from repro.engine.plain import summed_costs
from repro.engine.products import products_for
from repro.engine.step import Settings, in_turn
from repro.model import VAE
from repro.spec import Experiment

MOST_WORKERS = 4
LEAST_IMAGES = 25  # a worker's share of the batch; with less the products are too small to be worth it


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
        self.workers = workers_for(settings.threads, self.batch_size)
        parameters = {name: parameter.data for name, parameter in model.named_parameters()}
        self.names, self.heads = list(parameters), list(parameters).index("mean_head.weight") // 2
        self.shares = [_share(self.batch_size, self.workers, worker) for worker in range(self.workers)]
        weights = self._merge_heads(model)
        sizes = (share.stop - share.start for share in self.shares)
        self.chains = [Chain(experiment, weights, images, products) for images in sizes]
        self.layers = list(zip(*(chain.trained for chain in self.chains), strict=True))
        self.adam = [Adam(experiment.optim, pair) for pair in weights]
        self.steps = torch.zeros(())
        self.batch, self.parts = (torch.empty(0), torch.empty(0)), [(self.steps, self.steps)] * self.workers

    def step(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """One step. uint8 [B, H, W, C], [1, B, D] -> mean reconstruction and KL, nats per image."""
        with torch.no_grad(), one_thread():
            self.batch = images, noise[0]
            self.steps += 1
            run = crew(self.workers)
            run(self._run)
            run(self._update)
            reconstruction, kl = (torch.stack(each).sum() for each in zip(*self.parts, strict=True))
            return reconstruction / self.batch_size, kl / self.batch_size

    def epoch(self, images: Tensor, order: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """An epoch, step by step; see `Step`."""
        with one_thread():
            yield from in_turn(self, images, order, noise, self.batch_size)

    def costs(self, images: Tensor, noise: Tensor) -> Tensor:
        """Summed costs, whole batches by the chains, where these compute the ELBO, and the rest plainly; see `Step`."""
        whole = len(images) - len(images) % self.batch_size if self.exact else 0
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad(), one_thread():
            for first in range(0, whole, self.batch_size):
                chosen = slice(first, first + self.batch_size)
                self.batch = images[chosen], noise[0, chosen]
                crew(self.workers)(self._measure)
                total += torch.tensor(self.parts, dtype=torch.float64).sum(0)
        return total + summed_costs(self.model, images[whole:], noise[:, whole:]) if whole < len(images) else total

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state."""
        exp_avg = self._by_parameter([adam.exp_avg for adam in self.adam])
        exp_avg_sq = self._by_parameter([adam.exp_avg_sq for adam in self.adam])
        return named_state(self.names, exp_avg, exp_avg_sq, self.steps)

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put a state back."""
        load_state(self.state(), tensors)

    def _run(self, worker: int) -> None:
        images, noise = (each[self.shares[worker]] for each in self.batch)
        self.parts[worker] = self.chains[worker].run(images, noise, 1 / self.batch_size)

    def _measure(self, worker: int) -> None:
        images, noise = (each[self.shares[worker]] for each in self.batch)
        self.parts[worker] = self.chains[worker].costs(images, noise)

    def _update(self, worker: int) -> None:
        for index in reversed(range(len(self.layers))):
            shares = self.layers[index]
            if isinstance(shares[0], Dense):
                rows = _share(len(shares[0].weight), self.workers, worker)
            elif index % self.workers == worker:
                rows = slice(None)
            else:
                continue
            self.adam[index].update(type(shares[0]).weight_gradients(shares, rows), self.steps, rows)

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


def workers_for(threads: int, batch_size: int) -> int:
    """How many workers share a batch."""
    return max(1, min(threads, MOST_WORKERS, batch_size // LEAST_IMAGES))


def _share(total: int, shares: int, index: int) -> slice:
    return slice(total * index // shares, total * (index + 1) // shares)
