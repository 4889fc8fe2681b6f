"""This project's own training, epoch after epoch as a run does it; and, apart from it, its layers' matrix products.

python -m repro.benchmarks.peers.engine mnist_fc --threads 1 --precision mixed
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import NamedTuple

import torch
from repro.benchmarks.peers import protocol
from repro.benchmarks.peers.plan import Node, plan
from torch import Tensor

from repro.engine import Settings, choose
from repro.engine.products import Mkl, products_for
from repro.model import build
from repro.spec import Dense, Experiment
from repro.training.loop import epoch_noise, epoch_order


class Engine:
    """The step that a run on so many threads would choose."""

    def __init__(self, request: protocol.Request) -> None:
        torch.set_num_threads(request.threads)
        self.experiment, self.seed = request.experiment, request.seed
        self.images = torch.from_numpy(request.images)
        model, precision = build(self.experiment, self.seed), request.options.precision
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.step = choose(self.experiment, model, Settings("cpu", request.threads, precision))
        chosen = self.step.settings
        products = products_for(chosen.products, precision) if chosen.products else Mkl()
        self.facts = {"engine": chosen.engine, "products": products.name, "precision": precision}
        self.floor = Floor(self.experiment, products, request.threads)
        self.costs = self._costs()

    def run(self, steps: int) -> list[float]:
        """Train; return each step's cost, nats per image."""
        return [next(self.costs) for _ in range(steps)]

    def _costs(self) -> Iterator[float]:
        for epoch in count(1):
            order = epoch_order(len(self.images), self.experiment.data, self.seed, epoch)
            noise = epoch_noise(len(self.images), self.experiment, self.seed, epoch)
            for costs in self.step.epoch(self.images, order, noise):
                yield from costs.sum(1).tolist()


class Floor:
    """The dense layers' products alone, with nothing between them.

    Several threads each take a share of the images forward and back, and a share of the rows of each weight's gradient,
    and never wait for each other, so that no step that multiplies in this way can be faster.
    """

    def __init__(self, experiment: Experiment, products: Mkl, threads: int) -> None:
        self.products, self.threads = products, threads
        self.layers = dense_layers(experiment)
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def __call__(self, steps: int) -> None:
        """Do the products of so many steps."""
        for done in [self.pool.submit(self._work, worker, steps) for worker in range(self.threads)]:
            done.result()

    @torch.no_grad()
    def _work(self, worker: int, steps: int) -> None:
        layers = [layer.share(worker, self.threads) for layer in self.layers]
        for _ in range(steps):
            for layer in layers:
                self.products.forward(layer.x, layer.weight, layer.bias)
            for layer in reversed(layers):
                self.products.weight_gradient(layer.rows, layer.every_x)
                if layer.passes_back:
                    self.products.input_gradient(layer.grad, layer.weight)


class Layer(NamedTuple):
    """A dense layer's weight [O, I]; a thread's images x [B', I], their gradients [B', O], its rows of all: [B, O']."""

    weight: Tensor
    bias: Tensor
    x: Tensor
    grad: Tensor
    every_x: Tensor
    rows: Tensor
    passes_back: bool

    def share(self, worker: int, workers: int) -> "Layer":
        """What one of several threads does of it."""
        x, grad = (each.tensor_split(workers)[worker] for each in (self.x, self.grad))
        return self._replace(x=x, grad=grad, rows=self.rows.tensor_split(workers, 1)[worker])


def dense_layers(experiment: Experiment) -> list[Layer]:
    """The dense layers in order, with made-up numbers; the two heads, which have one input, are one product."""
    layers, training = plan(experiment), experiment.training
    first, repeated = layers.nodes[0], training.batch_size * training.samples
    encoder = [_layer(node, training.batch_size, node is not first) for node in layers.encoder if _is_dense(node)]
    heads = _layer(layers.head, training.batch_size, True, copies=2)
    return [*encoder, heads, *(_layer(node, repeated, True) for node in layers.decoder if _is_dense(node))]


def _is_dense(node: Node) -> bool:
    return isinstance(node.layer, Dense)


def _layer(node: Node, images: int, passes_back: bool, copies: int = 1) -> Layer:
    inputs, outputs = node.weight_shape
    x, grad = torch.rand(images, inputs), torch.rand(images, copies * outputs)
    weight, bias = torch.rand(copies * outputs, inputs), torch.zeros(copies * outputs)
    return Layer(weight, bias, x, grad, x, grad, passes_back)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this peer can be asked for."""
    parser.add_argument("--precision", choices=("float32", "mixed"), default="float32")


if __name__ == "__main__":
    protocol.main("engine", Engine, {"torch": torch.__version__}, add_options)
