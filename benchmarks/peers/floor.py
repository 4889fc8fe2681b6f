"""The floor of a training step: its products, each by the fastest primitive, and the memory traffic of Adam.

A product is a layer's output, its gradient by the weight or its gradient by the input. The primitives are those of
oneDNN and MKL that torch reaches, in each layout of memory. Nothing else of a step is here: no bias, activation, cost
or random number, and no conversion between the layouts of two primitives. The shapes have to match, the numbers do not.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from repro import registry
from repro.engine import Precision
from repro.engine.fast.convolutions import Conv
from repro.engine.fast.memory import keep_freed_memory
from repro.engine.fast.products import USUAL, OneDnn, convolve, products_for
from repro.model import count_parameters

from .workload import Layer, Request, Workload

VERSIONS = {"torch": torch.__version__}
TRIES, WARM_UPS = 5, 2  # of each primitive before one is chosen
ADAM_TRAFFIC = 7  # numbers a parameter: reads gradient, parameter and two moments; writes all but the gradient

Ways = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Product:
    """One product of a step, and how it can be computed, by name."""

    name: str
    ways: Ways

    def fastest(self) -> str:
        return min(self.ways, key=lambda name: _seconds(self.ways[name]))


class Peer:
    """Does the work of the floor instead of training. `facts` has the chosen primitive of each product."""

    def __init__(self, request: Request, images: NDArray[np.uint8]) -> None:
        torch.set_num_threads(request.threads)
        keep_freed_memory()
        self.parameters = count_parameters(registry.get(request.workload.experiment).spec)
        with torch.no_grad():
            found = list(products(request.workload, request.precision))
            primitives = {product.name: product.fastest() for product in found}
        self.chosen = [product.ways[primitives[product.name]] for product in found]
        self.facts = {"primitives": primitives}
        self.memory = torch.ones(ADAM_TRAFFIC * self.parameters // 2)  # each number of it is read and written

    @torch.no_grad()
    def run(self, steps: int) -> list[float]:
        """Compute the products and move Adam's memory so many times. There are no costs: they are 0."""
        for _ in range(steps):
            for compute in self.chosen:
                compute()
            self.memory.neg_()
        return [0.0] * steps


def products(workload: Workload, precision: Precision) -> Iterator[Product]:
    """Yield the products of one step; the two heads, which share an input, are one layer."""
    heads = replace(workload.head, gives=(2 * workload.latent,))
    for index, layer in enumerate((*workload.encoder, heads, *workload.decoder)):
        kinds: dict[str, Ways] = {}
        if layer.kind == "dense":
            kinds = dense(layer, workload.batch_size, precision)
        elif layer.kind == "conv":
            kinds = convolution(layer, workload.batch_size)
        elif layer.kind == "tconv":
            kinds = transposed(layer, workload.batch_size)
        for kind, ways in kinds.items():
            if index or kind != "input gradient":  # the first layer's input are the images
                yield Product(f"{layer.kind} {index} {kind}", ways)


def dense(layer: Layer, batch: int, precision: Precision) -> dict[str, Ways]:
    """Return the ways of a dense layer's products."""
    weight, bias = torch.rand(layer.gives[-1], layer.inputs), torch.zeros(layer.gives[-1])
    x, grad = torch.rand(batch, layer.inputs), torch.rand(batch, layer.gives[-1])
    made = {"mkl": products_for("mkl", "float32")}
    for each in dict.fromkeys(USUAL[of] for of in ("float32", precision)):
        made[each] = products_for(each, precision if each == USUAL[precision] else "float32")
    return {
        "forward": {name: partial(each.forward, x, weight, bias) for name, each in made.items()},
        "weight gradient": {name: partial(each.weight_gradient, grad, x) for name, each in made.items()},
        "input gradient": {name: partial(each.input_gradient, grad, weight) for name, each in made.items()},
    }


def convolution(layer: Layer, batch: int) -> dict[str, Ways]:
    """Return the ways of a convolution's products, with as many pixels out as in."""
    (height, width, inputs), outputs, k = layer.takes, layer.gives[-1], layer.kernel
    odd = k % 2
    padding, border = (k // 2, 0) if odd else (0, k - 1)
    x = torch.rand(batch, inputs, height + border, width + border)
    weight, grad = torch.rand(outputs, inputs, k, k), torch.rand(batch, outputs, height, width)
    found = {
        "forward": layouts(partial(F.conv2d, padding=padding), x, weight) | {"unfolded": partial(_unfolded, x, weight)},
        "weight gradient": layouts(partial(_backward, 1, padding=padding), grad, x, weight),
        "input gradient": layouts(partial(_backward, 0, padding=padding), grad, x, weight),
    }
    pixels, grads = torch.rand(batch, height, width, inputs), torch.rand(batch, height, width, outputs)
    engine = Conv((weight, torch.zeros(outputs)), "identity", (batch, height, width), OneDnn())
    engine.core.forward(pixels, engine.bias, "none")  # keeps what the gradient by the weight needs
    found["forward"]["engine"] = partial(engine.core.forward, pixels, engine.bias, "none")
    found["weight gradient"]["engine"] = partial(engine.core.weight_gradient, grads)
    found["input gradient"]["engine"] = partial(engine.input_gradient, grads)
    return found


def transposed(layer: Layer, batch: int) -> dict[str, Ways]:
    """Return the ways of a transposed convolution's products. The gradients are those of a strided convolution."""
    (height, width, inputs), outputs, k, s = layer.takes, layer.gives[-1], layer.kernel, layer.stride
    taps = -(-k // s)
    x, weight = torch.rand(batch, inputs, height, width), torch.rand(inputs, outputs, k, k)
    grad = torch.rand(batch, outputs, s * (height - 1) + k, s * (width - 1) + k)
    padded = torch.rand(batch, height + taps - 1, width + taps - 1, inputs)
    small = torch.rand(s * s * outputs, inputs, taps, taps)  # a kernel for each output pixel of an input pixel
    return {
        "forward": layouts(partial(F.conv_transpose2d, stride=s), x, weight)
        | {"sub-pixels": partial(convolve, padded, small, None, [0, 0], [1, 1])},
        "weight gradient": layouts(partial(_backward, 1, stride=s), x, grad, weight),
        "input gradient": layouts(partial(F.conv2d, stride=s), grad, weight),
    }


def layouts(product: Callable[..., object], *tensors: Tensor) -> Ways:
    """Return a product in both layouts of memory."""
    return {
        name: partial(product, *(tensor.contiguous(memory_format=layout) for tensor in tensors))
        for name, layout in (("contiguous", torch.contiguous_format), ("channels last", torch.channels_last))
    }


def _backward(which: int, grad: Tensor, x: Tensor, weight: Tensor, padding: int = 0, stride: int = 1) -> Tensor:
    """Return a convolution's gradient by its input (0) or its weight (1)."""
    mask = [which == 0, which == 1, False]
    found: Tensor = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, mask
    )[which]
    return found


def _unfolded(x: Tensor, weight: Tensor) -> Tensor:
    return weight.flatten(1) @ F.unfold(x, weight.shape[2:], padding=weight.shape[2] // 2 if weight.shape[2] % 2 else 0)


def _seconds(compute: Callable[[], object]) -> float:
    taken = []
    for _ in range(WARM_UPS + TRIES):
        began = time.perf_counter()
        compute()
        taken.append(time.perf_counter() - began)
    return min(taken[WARM_UPS:])
