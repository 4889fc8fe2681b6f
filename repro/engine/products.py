"""Matrix products of a dense layer: oneDNN where torch has it, MKL (what `F.linear` uses) otherwise.

Which one was taken is part of what a run records, and asks for again when it is resumed: they round differently.
`Bfloat16` is taken only where mixed precision is asked for.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from repro.engine.step import Precision, Unsupported

THIN = 64  # below this width MKL is faster everywhere: oneDNN's set-up outweighs the product


class Mkl:
    """y = x w^T + b and its two gradients, with x [B, I], w [O, I], y and grad [B, O]."""

    name = "mkl"

    def forward(self, x: Tensor, w: Tensor, b: Tensor, activation: str = "none") -> Tensor:
        """The layer's output, under an activation that torch has an in-place function for."""
        y = torch.addmm(b, x, w.t())
        if activation == "none":
            return y
        activated: Tensor = getattr(y, activation + "_")()
        return activated

    def input_gradient(self, grad: Tensor, w: Tensor) -> Tensor:
        """-> [B, I]."""
        return torch.mm(grad, w)

    def weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """-> [O, I]."""
        return torch.mm(grad.t(), x)


class OneDnn(Mkl):
    """The same through oneDNN, which takes transposed views as they are: nothing is copied.

    Raises what torch raises for a missing operator.
    """

    name = "onednn"

    def __init__(self) -> None:
        self.linear = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: Tensor, w: Tensor, b: Tensor, activation: str = "none") -> Tensor:
        """See `Mkl`."""
        if min(w.shape) < THIN:
            return super().forward(x, w, b, activation)
        return self._product(x, w, b, activation)

    def input_gradient(self, grad: Tensor, w: Tensor) -> Tensor:
        """See `Mkl`."""
        return super().input_gradient(grad, w) if min(w.shape) < THIN else self._product(grad, w.t())

    def weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """See `Mkl`."""
        if min(grad.shape[1], x.shape[1]) < THIN:
            return super().weight_gradient(grad, x)
        return self._product(grad.t(), x.t())

    def _product(self, x: Tensor, w: Tensor, b: Tensor | None = None, activation: str = "none") -> Tensor:
        y: Tensor = self.linear(x, w, b, activation, [], "")
        return y


class Bfloat16(OneDnn):
    """Inputs and results of the wide products rounded to bfloat16, sums inside in float32; weights stay float32."""

    name = "bfloat16"

    def _product(self, x: Tensor, w: Tensor, b: Tensor | None = None, activation: str = "none") -> Tensor:
        bias = None if b is None else b.bfloat16()
        return super()._product(x.bfloat16(), w.bfloat16(), bias, activation).float()


_PRODUCTS = {"mkl": Mkl, "onednn": OneDnn, "bfloat16": Bfloat16}


def products_for(name: str, precision: Precision) -> Mkl:
    """Return the products called `name`, or the default ones of `precision`; raise Unsupported for an unknown name."""
    if not name:
        return Bfloat16() if precision == "mixed" else default()
    if name not in _PRODUCTS or (name == "bfloat16") != (precision == "mixed"):
        raise Unsupported(f"products {name} for {precision}")
    return _PRODUCTS[name]()


@functools.cache
def default() -> Mkl:
    """Return oneDNN where its operator exists and agrees with MKL, and MKL otherwise.

    Speed is not measured: a choice by time can differ between two runs on a busy machine, and the two round
    differently. oneDNN is up to twice as fast as MKL on some processors and equally fast on the others.
    """
    mkl, generator = Mkl(), torch.Generator().manual_seed(0)
    x, w, b = (torch.rand(shape, generator=generator) for shape in ((100, 500), (500, 500), (500,)))
    try:
        with one_thread():
            onednn = OneDnn()
            agree = torch.allclose(onednn.forward(x, w, b, "relu"), mkl.forward(x, w, b, "relu"), rtol=1e-4)
    except (AttributeError, RuntimeError):
        return mkl
    return onednn if agree else mkl


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread in the block, so that what is found there does not depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
