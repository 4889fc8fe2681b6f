"""The modules of an experiment's layers, and the shapes between them."""

from collections.abc import Sequence
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import UsageError
from repro.spec import Activation, Conv, Dense, Layer, MeanPool, Reshape, Shape, TConv

Size = Shape | int
"""What passes between two layers: images of a shape, or vectors of a length."""


class Flatten(nn.Module):
    """Flatten images in row, column, channel order, without a copy if they are channels-last.

    [B, C, H, W] -> [B, H*W*C].
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


class Unflatten(nn.Module):
    """The inverse of `Flatten`. [B, H*W*C] -> [B, C, H, W]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = self.shape
        return x.reshape(-1, height, width, channels).permute(0, 3, 1, 2)


class SameConv(nn.Conv2d):
    """Convolution with stride 1, and an output as large as its input. [B, C, H, W] -> [B, C', H, W].

    An even kernel needs an odd number of rows and columns of padding; the odd one is below and at the right.
    """

    def forward(self, x: Tensor) -> Tensor:
        before = (self.kernel_size[0] - 1) // 2
        after = self.kernel_size[0] - 1 - before
        return super().forward(F.pad(x, (before, after, before, after)) if before != after else x)


class SameTConv(nn.ConvTranspose2d):
    """Transposed convolution, with an output `stride` times as large as its input. [B, C, H, W] -> [B, C', sH, sW].

    Of n pixels the full result has (n - 1) * stride + kernel. Half of the surplus over n * stride, rounded down, is
    cut at the beginning and the rest at the end.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        # `output_size` belongs to the base class and is not used
        full = super().forward(x)
        surplus = max(self.kernel_size[0] - self.stride[0], 0)
        height, width = x.shape[2] * self.stride[0], x.shape[3] * self.stride[0]
        return full[:, :, surplus // 2 : surplus // 2 + height, surplus // 2 : surplus // 2 + width]


class Activate(nn.Module):
    """The activation called `name`, element by element."""

    def __init__(self, name: Activation) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x if self.name == "identity" else getattr(F, self.name)(x)
        return result


def sizes(layers: Sequence[Layer], start: Size, where: str) -> list[Size]:
    """Return the size of each layer's output, given the size of the first layer's input.

    Raises UsageError with the name of a layer that does not fit, its input, and what it needs.
    """
    found: list[Size] = []
    for index, layer in enumerate(layers):
        start = _size_after(layer, start, f"{where}.{index} {describe(layer)}")
        found.append(start)
    return found


def modules(layers: Sequence[Layer], start: Size, activation: Activation) -> nn.Sequential:
    """Return the layers, each followed by its own activation or `activation`. Raises UsageError: see `sizes`."""
    parts: list[nn.Module] = []
    for layer, out in zip(layers, sizes(layers, start, "layers"), strict=True):
        parts += module(layer, start)
        if isinstance(layer, Dense | Conv | TConv):
            parts.append(Activate(layer.activation or activation))
        start = out
    return nn.Sequential(*parts)


def module(layer: Layer, start: Size) -> list[nn.Module]:
    """Return the modules of one layer without its activation."""
    channels = start.channels if isinstance(start, Shape) else 0
    match layer:
        case Dense():
            flatten: list[nn.Module] = [Flatten()] if isinstance(start, Shape) else []
            return [*flatten, nn.Linear(length(start), layer.units)]
        case Conv():
            padding = (layer.kernel - 1) // 2 if layer.kernel % 2 else 0
            return [SameConv(channels, layer.channels, layer.kernel, padding=padding)]
        case TConv():
            missing = max(layer.stride - layer.kernel, 0)
            return [SameTConv(channels, layer.channels, layer.kernel, layer.stride, output_padding=missing)]
        case MeanPool():
            return [nn.AvgPool2d(layer.size)]
        case Reshape():
            return [Unflatten(Shape(layer.channels, layer.height, layer.width))]
        case _:
            assert_never(layer)


def initialise(parameters: nn.Module, generator: torch.Generator) -> None:
    """Draw weights from a normal of standard deviation 0.01, cut at 0.02, and set biases to 0, as the notebook does."""
    for name, parameter in parameters.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.trunc_normal_(parameter, std=0.01, a=-0.02, b=0.02, generator=generator)


def length(size: Size) -> int:
    """Return the number of values in one image or vector."""
    return size.channels * size.height * size.width if isinstance(size, Shape) else size


def describe(layer: Layer) -> str:
    """Return a layer as `conv(kernel=5, channels=8)`."""
    shown = {key: value for key, value in vars(layer).items() if key != "kind" and value is not None}
    return f"{layer.kind}({', '.join(f'{key}={value}' for key, value in shown.items() if not key.startswith('_'))})"


def _size_after(layer: Layer, start: Size, place: str) -> Size:
    match layer:
        case Dense():
            return layer.units
        case Reshape():
            wanted = Shape(layer.channels, layer.height, layer.width)
            if length(start) != length(wanted):
                raise UsageError(f"{place}: gets {length(start)} values, needs {length(wanted)} to make {wanted}")
            return wanted
    if not isinstance(start, Shape):
        raise UsageError(f"{place}: gets a vector of {start}, needs an image; put a reshape before it")
    match layer:
        case Conv():
            return start._replace(channels=layer.channels)
        case TConv():
            return Shape(layer.channels, start.height * layer.stride, start.width * layer.stride)
        case MeanPool():
            if start.height % layer.size or start.width % layer.size:
                raise UsageError(f"{place}: gets {start}, needs a height and width that {layer.size} divides")
            return Shape(start.channels, start.height // layer.size, start.width // layer.size)
        case _:
            assert_never(layer)
