"""Products of inputs and weights. Dense layers: oneDNN if torch has it, otherwise MKL, which `F.linear` uses.

The two round differently. A run therefore records which one it used, and asks for the same one when it is resumed.
Convolutions are oneDNN's in either case. `Bfloat16` is for mixed precision only.
"""

import torch
from torch import Tensor

from repro.engine.step import Precision, Unsupported

Sizes = list[int]
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

    def convolve(
        self, x: Tensor, w: Tensor, b: Tensor | None, padding: Sizes, stride: Sizes, activation: str = "none"
    ) -> Tensor:
        """[B, H, W, I] with weight [O, I, h, w] -> [B, H', W', O]."""
        return convolve(x, w, b, padding, stride, activation)

    def kernel_gradient(self, grad: Tensor, x: Tensor, w: Tensor, padding: Sizes, stride: Sizes) -> Tensor:
        """Return the gradient of `convolve` by its weight, [O, I, h, w]."""
        mask = [False, True, False]
        back = torch.ops.aten.convolution_backward
        found: Tensor = back(nchw(grad), nchw(x), w, None, stride, padding, [1, 1], False, [0, 0], 1, mask)[1]
        return found


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
    """Inputs and results of the wide products and of the convolutions are rounded to bfloat16, with sums in float32.

    Weights stay float32.
    """

    name = "bfloat16"

    def convolve(
        self, x: Tensor, w: Tensor, b: Tensor | None, padding: Sizes, stride: Sizes, activation: str = "none"
    ) -> Tensor:
        bias = None if b is None else b.bfloat16()
        return convolve(x.bfloat16(), w.bfloat16(), bias, padding, stride, activation).float()

    def kernel_gradient(self, grad: Tensor, x: Tensor, w: Tensor, padding: Sizes, stride: Sizes) -> Tensor:
        return super().kernel_gradient(grad.bfloat16(), x.bfloat16(), w.bfloat16(), padding, stride).float()

    def _product(self, x: Tensor, w: Tensor, b: Tensor | None = None, activation: str = "none") -> Tensor:
        bias = None if b is None else b.bfloat16()
        return super()._product(x.bfloat16(), w.bfloat16(), bias, activation).float()


def nchw(x: Tensor) -> Tensor:
    """Return [B, H, W, C] as torch's convolutions index it, channels-last in memory."""
    return x.permute(0, 3, 1, 2)


def convolve(
    x: Tensor, w: Tensor, b: Tensor | None, padding: Sizes, stride: Sizes, activation: str = "none", groups: int = 1
) -> Tensor:
    """[B, H, W, I] with weight [O, I / groups, h, w] -> [B, H', W', O]."""
    product = torch.ops.mkldnn._convolution_pointwise
    y: Tensor = product(nchw(x), w, b, padding, stride, [1, 1], groups, activation, [], "")
    return y.permute(0, 2, 3, 1)


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
