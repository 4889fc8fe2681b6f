"""Layers with hand-written gradients. Images are [B, H, W, C], contiguous, so that flattening them copies nothing."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from repro.engine.fast.activations import activation
from repro.engine.fast.products import Mkl

Weights = tuple[Tensor, Tensor]
"""Weight and bias of a layer, or their gradients."""


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


def nchw(x: Tensor) -> Tensor:
    """Return [B, H, W, C] as torch's convolutions index it, channels-last in memory."""
    return x.permute(0, 3, 1, 2)


def convolve(
    x: Tensor, w: Tensor, b: Tensor | None, padding: list[int], stride: list[int], act: str = "none", groups: int = 1
) -> Tensor:
    """[B, H, W, I] with weight [O, I / groups, h, w] -> [B, H', W', O]."""
    product = torch.ops.mkldnn._convolution_pointwise
    y: Tensor = product(nchw(x), w, b, padding, stride, [1, 1], groups, act, [], "")
    return y.permute(0, 2, 3, 1)


def sum_pixels(grad: Tensor) -> Tensor:
    """Sum over all axes but the last. The batch is summed first: long rows are added much faster than short ones."""
    return grad.sum(0).flatten(0, -2).sum(0)


def padded(images: int, height: int, width: int, channels: int, *, before: int, after: int) -> tuple[Tensor, Tensor]:
    """Return a buffer with a border of zeros, and the view of its inside."""
    whole = torch.zeros(images, height + before + after, width + before + after, channels)
    return whole, whole[:, before : before + height, before : before + width]
