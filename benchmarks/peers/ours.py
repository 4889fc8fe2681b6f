"""This project's own training, epoch after epoch as a run does it; and, apart from it, its layers' matrix products."""

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import torch
from repro.benchmarks.peers.images import Pixels
from repro.benchmarks.peers.plan import Layer, Plan, Request
from torch import Tensor

from repro import registry
from repro.engine import Engine, Settings, choose, plain
from repro.engine.fast.products import products_for
from repro.model import build
from repro.training.loop import epoch_noise, epoch_order

VERSIONS = {"torch": torch.__version__}


class Peer:
    """The step that a run with the same settings chooses.

    The engine "compiled" is the plain step with its costs, forward and backward, under `torch.compile`.
    """

    def __init__(self, request: Request, images: Pixels) -> None:
        torch.set_num_threads(request.threads)
        self.experiment, self.seed = registry.get(request.plan.experiment).spec, request.seed
        self.images = torch.from_numpy(images)
        model = build(self.experiment, self.seed)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        if request.engine == "compiled":
            plain.training_losses = torch.compile(plain.training_losses)
        engine: Engine = "auto" if request.engine == "auto" else "plain"
        self.step = choose(self.experiment, model, Settings("cpu", request.threads, request.precision, engine))
        chosen = self.step.settings
        fast = bool(chosen.products)
        self.products = products_for(chosen.products, request.precision) if fast else products_for("mkl", "float32")
        self.facts = {"engine": chosen.engine, "products": self.products.name, "precision": request.precision}
        self.dense = dense_layers(request.plan)
        self.costs = self._costs()

    def run(self, steps: int) -> list[float]:
        """Train; return each step's cost, nats per image."""
        return [next(self.costs) for _ in range(steps)]

    @torch.no_grad()
    def floor(self, steps: int) -> None:
        """Do the dense layers' products of so many steps and nothing else, on PyTorch's threads.

        No step that multiplies in this way can be faster.
        """
        for _ in range(steps):
            for layer in self.dense:
                self.products.forward(layer.x, layer.weight, layer.bias)
            for layer in reversed(self.dense):
                self.products.weight_gradient(layer.gradient, layer.x)
                if layer.passes_back:
                    self.products.input_gradient(layer.gradient, layer.weight)

    def _costs(self) -> Iterator[float]:
        for epoch in count(1):
            order = epoch_order(len(self.images), self.experiment.data, self.seed, epoch)
            noise = epoch_noise(len(self.images), self.experiment, self.seed, epoch)
            for costs in self.step.epoch(self.images, order, noise):
                yield from costs.sum(1).tolist()


class DenseLayer(NamedTuple):
    """Numbers to multiply: weight [O, I], bias [O], input x [B, I], the output's gradient [B, O]."""

    weight: Tensor
    bias: Tensor
    x: Tensor
    gradient: Tensor
    passes_back: bool


def dense_layers(plan: Plan) -> list[DenseLayer]:
    """Return the dense layers in order, with made-up numbers; the two heads, which share an input, are one layer."""
    found = [_dense_layer(layer, plan, layer.gives[-1]) for layer in plan.encoder if layer.kind == "dense"]
    found.append(_dense_layer(plan.head, plan, 2 * plan.latent))
    return [*found, *(_dense_layer(layer, plan, layer.gives[-1]) for layer in plan.decoder if layer.kind == "dense")]


def _dense_layer(layer: Layer, plan: Plan, outputs: int) -> DenseLayer:
    x, gradient = torch.rand(plan.batch_size, layer.inputs), torch.rand(plan.batch_size, outputs)
    return DenseLayer(torch.rand(outputs, layer.inputs), torch.zeros(outputs), x, gradient, layer is not plan.layers[0])
