"""This project's own training, epoch after epoch as in a run, and the matrix products of its layers alone."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repro import registry
from repro.engine import Engine, Settings, choose, plain
from repro.engine.fast.products import products_for
from repro.model import build
from repro.training.loop import epoch_noise, epoch_order

from .workload import Request, Workload

VERSIONS = {"torch": torch.__version__}


class Peer:
    """The step that a run with the same settings chooses.

    The engine "compiled" is the plain step with its costs, forward and backward, under `torch.compile`.
    """

    def __init__(self, request: Request, images: NDArray[np.uint8]) -> None:
        torch.set_num_threads(request.threads)
        self.experiment, self.seed = registry.get(request.workload.experiment).spec, request.seed
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
        self.dense = dense_layers(request.workload)
        self.costs = self._costs()

    def run(self, steps: int) -> list[float]:
        return [next(self.costs) for _ in range(steps)]

    @torch.no_grad()
    def floor(self, steps: int) -> None:
        """Compute only the dense layers' products. No step that multiplies in this way can be faster."""
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
    """Weight [O, I], bias [O], input x [B, I] and the output's gradient [B, O] of a layer."""

    weight: Tensor
    bias: Tensor
    x: Tensor
    gradient: Tensor
    passes_back: bool


def dense_layers(workload: Workload) -> list[DenseLayer]:
    """Return the dense layers in order, with random numbers; the two heads, which share an input, are one layer."""
    heads = replace(workload.head, gives=(2 * workload.latent,))
    found = []
    for index, layer in enumerate((*workload.encoder, heads, *workload.decoder)):
        if layer.kind == "dense":
            batch, inputs, outputs = workload.batch_size, layer.inputs, layer.gives[-1]
            weight, bias = torch.rand(outputs, inputs), torch.zeros(outputs)
            x, gradient = torch.rand(batch, inputs), torch.rand(batch, outputs)
            found.append(DenseLayer(weight, bias, x, gradient, passes_back=index > 0))
    return found
