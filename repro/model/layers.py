"""The modules of an experiment's layers, and the shapes between them."""

from collections.abc import Callable, Sequence
from functools import partial
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
        _, start = constructors(layer, start, f"{where}.{index} {describe(layer)}")
        found.append(start)
    return found


def modules(layers: Sequence[Layer], start: Size, activation: Activation) -> tuple[nn.Sequential, Size]:
    """Return the layers, each followed by its own activation or `activation`, and the size of the last output."""
    parts: list[nn.Module] = []
    for layer in layers:
        made_by, start = constructors(layer, start, describe(layer))
        parts += [make() for make in made_by]
        if isinstance(layer, Dense | Conv | TConv):
            parts.append(Activate(layer.activation or activation))
    return nn.Sequential(*parts), start


def constructors(layer: Layer, start: Size, place: str) -> tuple[list[Callable[[], nn.Module]], Size]:
    """Return what makes the modules of a layer, without its activation, and the size of its output.

    Raises UsageError, which begins with `place`, if the layer does not take an input of size `start`.
    """
    match layer:
        case Dense():
            linear = partial(nn.Linear, length(start), layer.units)
            return [Flatten, linear] if isinstance(start, Shape) else [linear], layer.units
        case Reshape():
            wanted = Shape(layer.channels, layer.height, layer.width)
            if length(start) != length(wanted):
                raise UsageError(f"{place}: gets {length(start)} values, needs {length(wanted)} to make {wanted}")
            return [partial(Unflatten, wanted)], wanted
    if not isinstance(start, Shape):
        raise UsageError(f"{place}: gets a vector of {start}, needs an image; put a reshape before it")
    channels, height, width = start
    match layer:
        case Conv(kernel=k):
            conv = partial(SameConv, channels, layer.channels, k, padding=(k - 1) // 2 if k % 2 else 0)
            return [conv], Shape(layer.channels, height, width)
        case TConv(kernel=k, stride=s):
            tconv = partial(SameTConv, channels, layer.channels, k, s, output_padding=max(s - k, 0))
            return [tconv], Shape(layer.channels, height * s, width * s)
        case MeanPool(size=n):
            if height % n or width % n:
                raise UsageError(f"{place}: gets {start}, needs a height and width that {n} divides")
            return [partial(nn.AvgPool2d, n)], Shape(channels, height // n, width // n)
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
