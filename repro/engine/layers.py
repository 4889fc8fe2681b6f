"""Layers with hand-written gradients. Images are [B, H, W, C], contiguous, so that flattening them copies nothing.

`forward` keeps what `backward` needs. `backward` may overwrite a contiguous gradient that it is given, and returns the
gradient by its input, or None where `needs_input_gradient` is false.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from repro.engine.activations import activation
from repro.engine.products import Mkl

Weights = tuple[Tensor, Tensor]
"""Weight and bias of a layer, or their gradients."""


class Layer(ABC):
    """One layer."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Its output."""

    @abstractmethod
    def backward(self, grad: Tensor) -> Tensor | None:
        """From the gradient by its output to that by its input."""


class Trained(Layer):
    """A layer with weights, whose gradients, summed over the batch, `backward` leaves in `gradients`."""

    weight: Tensor
    bias: Tensor
    gradients: Weights


class Dense(Trained):
    """[B, I] -> [B, O] with weight [O, I]."""

    x: Tensor

    def __init__(self, weights: Weights, act: str, products: Mkl, needs_input_gradient: bool = True) -> None:
        self.weight, self.bias = weights
        self.products = products
        self.activation, self.needs_input_gradient = activation(act), needs_input_gradient

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [B, O]."""
        self.x = x.view(x.shape[0], -1)
        y = self.products.forward(self.x, self.weight, self.bias, self.activation.fused)
        return self.activation.forward(y)

    def backward(self, grad: Tensor) -> Tensor | None:
        """[B, O] -> [B, I]."""
        grad = self.activation.backward(grad, grad)
        self.gradients = self.products.weight_gradient(grad, self.x), grad.sum(0)
        return self.products.input_gradient(grad, self.weight) if self.needs_input_gradient else None


class Reshape(Layer):
    """Between vectors and images: a view of the same memory."""

    before: torch.Size

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [B, *shape]."""
        self.before = x.shape
        return x.view(x.shape[0], *self.shape)

    def backward(self, grad: Tensor) -> Tensor:
        """The inverse."""
        return grad.reshape(self.before)


class MeanPool(Layer):
    """[B, H, W, C] -> [B, H/n, W/n, C], as a convolution of each channel by itself: twice as fast as pooling."""

    shape: torch.Size

    def __init__(self, size: int, channels: int) -> None:
        self.size = size
        self.weight = torch.full((channels, 1, size, size), 1 / size**2)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        self.shape = x.shape
        stride, groups = [self.size, self.size], self.weight.shape[0]
        pool = torch.ops.mkldnn._convolution_pointwise
        return nhwc(pool(nchw(x), self.weight, None, [0, 0], stride, [1, 1], groups, "none", [], ""))

    def backward(self, grad: Tensor) -> Tensor:
        """-> [B, H/n, n, W, C]: whole rows, repeated without a copy, for the layer before to read as they are."""
        (_, height, width, channels), n = self.shape, self.size
        columns = grad.reshape(-1, height // n, width // n, 1, channels).mul(1 / n**2).expand(-1, -1, -1, n, -1)
        return columns.reshape(-1, height // n, 1, width, channels).expand(-1, -1, n, -1, -1)


def nchw(x: Tensor) -> Tensor:
    """The same memory as torch's convolutions name it: channels-last."""
    return x.permute(0, 3, 1, 2)


def nhwc(x: Tensor) -> Tensor:
    """The inverse."""
    return x.permute(0, 2, 3, 1)


def sum_pixels(grad: Tensor) -> Tensor:
    """Sum over all but the last axis, first the batch: long rows are added much faster than short ones."""
    return grad.sum(0).flatten(0, -2).sum(0)


def padded(images: int, height: int, width: int, channels: int, *, before: int, after: int) -> tuple[Tensor, Tensor]:
    """A buffer with a border of zeros, and the view of its inside."""
    whole = torch.zeros(images, height + before + after, width + before + after, channels)
    return whole, whole[:, before : before + height, before : before + width]
