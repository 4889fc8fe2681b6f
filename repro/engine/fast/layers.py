"""Layers and activations with hand-written gradients, in as few passes over memory as torch's operators allow.

Images are [B, H, W, C], contiguous, so that flattening them copies nothing.
"""

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor

from repro.engine.fast.products import Mkl, convolve
from repro.engine.step import Unsupported

Weights = tuple[Tensor, Tensor]
"""Weight and bias of a layer, or their gradients."""


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


class Layer(ABC):
    """One layer. `forward` keeps what `backward` needs."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the output for a batch."""

    @abstractmethod
    def backward(self, grad: Tensor) -> Tensor | None:
        """Return the gradient by the input, given the gradient by the output. A contiguous `grad` may be overwritten.

        Returns None from a layer without `needs_input_gradient`.
        """


class Trained(Layer):
    """A layer with weights. `backward` sets `gradients`, summed over the batch."""

    needs_input_gradient = True
    weight: Tensor
    bias: Tensor
    gradients: Weights


class Dense(Trained):
    """[B, ...] -> [B, O] with weight [O, I]."""

    x: Tensor

    def __init__(self, weights: Weights, act: str, products: Mkl) -> None:
        self.weight, self.bias = weights
        self.products, self.activation = products, activation(act)

    def forward(self, x: Tensor) -> Tensor:
        self.x = x.view(x.shape[0], -1)
        y = self.products.forward(self.x, self.weight, self.bias, self.activation.fused)
        return self.activation.forward(y)

    def backward(self, grad: Tensor) -> Tensor | None:
        grad = self.activation.backward(grad, grad)
        self.gradients = self.products.weight_gradient(grad, self.x), grad.sum(0)
        return self.products.input_gradient(grad, self.weight) if self.needs_input_gradient else None


class Reshape(Layer):
    """[B, ...] -> [B, *shape], a view of the same memory."""

    before: torch.Size

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        self.before = x.shape
        return x.view(x.shape[0], *self.shape)

    def backward(self, grad: Tensor) -> Tensor:
        return grad.reshape(self.before)


class MeanPool(Layer):
    """[B, H, W, C] -> [B, H/n, W/n, C], as a convolution of each channel by itself: twice as fast as pooling."""

    shape: torch.Size

    def __init__(self, size: int, channels: int) -> None:
        self.size = size
        self.weight = torch.full((channels, 1, size, size), 1 / size**2)

    def forward(self, x: Tensor) -> Tensor:
        self.shape = x.shape
        return convolve(x, self.weight, None, [0, 0], [self.size, self.size], groups=self.weight.shape[0])

    def backward(self, grad: Tensor) -> Tensor:
        """Return [B, H/n, n, W, C]: each row n times as a view without a copy, which the layer before can read."""
        (_, height, width, channels), n = self.shape, self.size
        columns = grad.reshape(-1, height // n, width // n, 1, channels).mul(1 / n**2).expand(-1, -1, -1, n, -1)
        return columns.reshape(-1, height // n, 1, width, channels).expand(-1, -1, n, -1, -1)


def sum_pixels(grad: Tensor) -> Tensor:
    """Sum over all axes but the last. The batch is summed first: long rows are added much faster than short ones."""
    return grad.sum(0).flatten(0, -2).sum(0)


def padded(images: int, height: int, width: int, channels: int, *, before: int, after: int) -> tuple[Tensor, Tensor]:
    """Return a buffer with a border of zeros, and the view of its inside."""
    whole = torch.zeros(images, height + before + after, width + before + after, channels)
    return whole, whole[:, before : before + height, before : before + width]
