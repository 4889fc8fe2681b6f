"""Activations with hand-written gradients, in as few passes over memory as torch's operators allow."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from repro.engine.step import Unsupported


class Identity:
    """The base class. The product of the layer before applies the activation called `fused` itself.

    `forward` does what is left to do after the product, and may overwrite `y`. `backward` writes the gradient by the
    activation's input to `out`, which may be `grad` itself; `grad` may have any shape in which the memory of `out` can
    be viewed.
    """

    fused = "none"
    y: Tensor

    def forward(self, y: Tensor) -> Tensor:
        self.y = y
        return y

    def backward(self, grad: Tensor, out: Tensor) -> Tensor:
        return grad if out is grad else out.copy_(grad)


class Fused(Identity):
    """An activation that torch applies inside of a product, and whose gradient follows from its output."""

    def __init__(self, name: str, input_gradient: Any) -> None:
        self.fused, self.input_gradient = name, input_gradient

    def backward(self, grad: Tensor, out: Tensor) -> Tensor:
        self.input_gradient(grad, self.y.view(grad.shape), grad_input=out)
        return out


class Softplus(Identity):
    """log(1 + exp(a)) computed as -log t with t = sigmoid(-a), and its derivative sigmoid(a) as 1 - t.

    `torch.log1p`, and with it `F.softplus`, takes ten times as long as `sigmoid` and `log` together. -log t loses no
    absolute precision: t is near 1 where the result is near 0. Below t = exp(-80) the result is a itself.
    """

    LARGEST = 80.0  # exp(-80) is still a normal float32
    t: Tensor

    def forward(self, y: Tensor) -> Tensor:
        self.t = torch.neg(y).clamp_(min=-self.LARGEST).sigmoid_()
        return torch.maximum(torch.log(self.t).neg_(), y, out=y)

    def backward(self, grad: Tensor, out: Tensor) -> Tensor:
        return torch.addcmul(grad, grad, self.t.view(grad.shape), value=-1, out=out)


def activation(name: str) -> Identity:
    """Return the activation of one layer by its name in the spec. Raises Unsupported."""
    match name:
        case "identity":
            return Identity()
        case "relu":
            return Fused(name, partial(torch.ops.aten.threshold_backward.grad_input, threshold=0))
        case "tanh":
            return Fused(name, torch.ops.aten.tanh_backward.grad_input)
        case "sigmoid":
            return Fused(name, torch.ops.aten.sigmoid_backward.grad_input)
        case "softplus":
            return Softplus()
        case _:
            raise Unsupported(f"activation {name}")
