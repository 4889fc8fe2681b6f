"""Matrix products of a dense layer: oneDNN if torch has it, otherwise MKL, which `F.linear` uses.

The two round differently. A run therefore records which one it used, and asks for the same one when it is resumed.
`Bfloat16` is for mixed precision only.
"""

import torch
from torch import Tensor

from repro.engine.step import Precision, Unsupported

THIN = 64  # below this width MKL is faster everywhere: oneDNN's overhead outweighs the product


class Mkl:
    """y = x w^T + b and its two gradients, with x [B, I], w [O, I], y and grad [B, O]."""

    name = "mkl"

    def forward(self, x: Tensor, w: Tensor, b: Tensor, activation: str = "none") -> Tensor:
        """Return the layer's output after an activation of which torch has an in-place function."""
        y = torch.addmm(b, x, w.t())
        if activation == "none":
            return y
        activated: Tensor = getattr(y, activation + "_")()
        return activated

    def input_gradient(self, grad: Tensor, w: Tensor) -> Tensor:
        return torch.mm(grad, w)

    def weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        return torch.mm(grad.t(), x)


class OneDnn(Mkl):
    """The same products through oneDNN, which reads transposed views without a copy.

    Raises what torch raises for a missing operator.
    """

    name = "onednn"

    def __init__(self) -> None:
        self.linear = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: Tensor, w: Tensor, b: Tensor, activation: str = "none") -> Tensor:
        if min(w.shape) < THIN:
            return super().forward(x, w, b, activation)
        return self._product(x, w, b, activation)

    def input_gradient(self, grad: Tensor, w: Tensor) -> Tensor:
        return super().input_gradient(grad, w) if min(w.shape) < THIN else self._product(grad, w.t())

    def weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        if min(grad.shape[1], x.shape[1]) < THIN:
            return super().weight_gradient(grad, x)
        return self._product(grad.t(), x.t())

    def _product(self, x: Tensor, w: Tensor, b: Tensor | None = None, activation: str = "none") -> Tensor:
        y: Tensor = self.linear(x, w, b, activation, [], "")
        return y


class Bfloat16(OneDnn):
    """Inputs and results of the wide products are rounded to bfloat16, with sums in float32. Weights stay float32."""

    name = "bfloat16"

    def _product(self, x: Tensor, w: Tensor, b: Tensor | None = None, activation: str = "none") -> Tensor:
        bias = None if b is None else b.bfloat16()
        return super()._product(x.bfloat16(), w.bfloat16(), bias, activation).float()


USUAL: dict[Precision, str] = {"float32": "onednn", "mixed": "bfloat16"}
"""oneDNN is up to twice as fast as MKL on some processors and equally fast on the others. Speed is not measured: the
two round differently, and a choice by time can differ between two runs on a busy machine."""
_PRODUCTS = {"mkl": Mkl, "onednn": OneDnn, "bfloat16": Bfloat16}


def products_for(name: str, precision: Precision) -> Mkl:
    """Return the products called `name`, or the usual ones of a precision. Raises Unsupported for an unknown name."""
    name = name or USUAL[precision]
    if name not in _PRODUCTS or (name == "bfloat16") != (precision == "mixed"):
        raise Unsupported(f"products {name} for {precision}")
    return _PRODUCTS[name]()
