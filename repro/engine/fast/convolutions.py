"""Convolutions with hand-written gradients, through oneDNN. layers.py has the conventions.

oneDNN's direct convolution computes 16 output channels at once, so that a layer of 8 leaves half of the vector unit
idle. Two neighbouring pixels of 8 channels have the memory of one pixel of 16. To compute pixels in pairs, with a
kernel one column wider, is therefore up to twice as fast, although it multiplies some zeros.
"""

import torch
from torch import Tensor

from repro.engine.fast.layers import Trained, Weights, activation, padded, sum_pixels
from repro.engine.fast.products import Mkl
from repro.engine.step import Unsupported

LANES = 16  # float32 numbers in one AVX-512 register


class Same:
    """The convolution and the gradient by its weight. [B, H, W, I] -> [B, H, W, O]."""

    x: Tensor

    def __init__(self, weight: Tensor, size: tuple[int, int, int], products: Mkl) -> None:
        self.weight, self.products, k = weight, products, weight.shape[2]
        before, after = (k - 1) // 2, k // 2
        self.padding = [before, before] if before == after else [0, 0]
        self.buffer: Tensor | None = None
        if before != after:
            self.buffer, self.inside = padded(*size, weight.shape[1], before=before, after=after)

    def forward(self, x: Tensor, bias: Tensor, act: str) -> Tensor:
        if self.buffer is not None:
            self.inside.copy_(x)
            x = self.buffer
        self.x = x
        return self.products.convolve(x, self.weight, bias, self.padding, [1, 1], act)

    def weight_gradient(self, grad: Tensor) -> Tensor:
        """Return the gradient by the weight, [O, I, k, k], given the gradient by the output."""
        return self.products.kernel_gradient(grad, self.x, self.weight, self.padding, [1, 1])


class PairedSame:
    """The same for kernels of 3 and 5 and an even width, with pairs of pixels as input and output."""

    x: Tensor
    paired: Tensor

    def __init__(self, weight: Tensor, products: Mkl) -> None:
        self.weight, self.products = weight, products
        o, i, k, _ = weight.shape
        self.padding = [k // 2, 1]
        self.wide = torch.zeros(2, o, i, k, 6)  # a pair sees three pairs: the columns from 2 before it to 3 after it
        self.parts = [self.wide[n, ..., n + 2 - k // 2 : n + 2 - k // 2 + k] for n in (0, 1)]
        self.shape = (2 * o, 2 * i, k, 3)

    def forward(self, x: Tensor, bias: Tensor, act: str) -> Tensor:
        for part in self.parts:
            part.copy_(self.weight)
        w = self.wide.view(*self.wide.shape[:4], 3, 2).permute(0, 1, 5, 2, 3, 4).reshape(self.shape)
        self.x, self.paired = pairs(x), w
        y = self.products.convolve(self.x, w, torch.cat((bias, bias)), self.padding, [1, 1], act)
        return y.view(*x.shape[:3], -1)

    def weight_gradient(self, grad: Tensor) -> Tensor:
        paired = self.products.kernel_gradient(pairs(grad), self.x, self.paired, self.padding, [1, 1])
        o, i, k, _ = self.weight.shape
        wide = paired.view(2, o, 2, i, k, 3).permute(0, 1, 3, 4, 5, 2).reshape(2, o, i, k, 6)
        start = 2 - k // 2
        return wide[0, ..., start : start + k] + wide[1, ..., start + 1 : start + 1 + k]


def pairs(x: Tensor) -> Tensor:
    """View each two neighbouring pixels of a row as one pixel with twice the channels."""
    return x.view(x.shape[0], x.shape[1], x.shape[2] // 2, -1)


class InputGradient:
    """The gradient by the input: a convolution of the output's gradient with the kernel rotated by 180 degrees."""

    def __init__(self, weight: Tensor, width: int, products: Mkl) -> None:
        o, i, k, _ = weight.shape
        self.weight, self.products, self.padding = weight, products, [k // 2, k // 2]
        # oneDNN computes an output one pixel wide, a single pair, wrongly for one channel and strides 1 and 2
        self.pixels = 2 if i < LANES and width % 2 == 0 and width > 2 else 1
        self.rotated = torch.zeros(self.pixels, i, o, k, k + self.pixels - 1)

    def __call__(self, grad: Tensor) -> Tensor:
        """[B, H, W, O] -> [B, H, W, I]"""
        k = self.weight.shape[2]
        rotated = self.weight.flip(2, 3).transpose(0, 1)
        for n in range(self.pixels):
            self.rotated[n, ..., n : n + k].copy_(rotated)
        found = self.products.convolve(grad, self.rotated.flatten(0, 1), None, self.padding, [1, self.pixels])
        height, width = grad.shape[1:3]
        return found.reshape(grad.shape[0], found.shape[1], -1, self.weight.shape[1])[:, :height, :width]


class Conv(Trained):
    """[B, H, W, I] -> [B, H, W, O] with weight [O, I, k, k]. See `model.layers.SameConv`."""

    size: torch.Size

    def __init__(self, weights: Weights, act: str, size: tuple[int, int, int], products: Mkl) -> None:
        weight, self.bias = weights
        o, _, k, _ = weight.shape
        self.weight, self.activation = weight, activation(act)
        paired = o < LANES and k in (3, 5) and size[2] % 2 == 0
        self.core = PairedSame(weight, products) if paired else Same(weight, size, products)
        self.input_gradient = InputGradient(weight, size[2], products)

    def forward(self, x: Tensor) -> Tensor:
        self.size = x.shape
        return self.activation.forward(self.core.forward(x, self.bias, self.activation.fused))

    def backward(self, grad: Tensor) -> Tensor | None:
        out = grad if grad.is_contiguous() else torch.empty(grad.shape)
        grad = self.activation.backward(grad, out).view(*self.size[:3], -1)
        self.gradients = self.core.weight_gradient(grad), sum_pixels(grad)
        return self.input_gradient(grad) if self.needs_input_gradient else None


class TConv(Trained):
    """[B, H, W, I] -> [B, sH, sW, O] with weight [I, O, k, k]. See `model.layers.SameTConv`.

    Each of the s x s output pixels of an input pixel has its own small kernel. `forward` is one convolution with s*s*O
    channels, whose result is then put in order. `backward` computes both gradients by a strided convolution.
    """

    x: Tensor

    def __init__(self, weights: Weights, act: str, size: tuple[int, int, int], stride: int, products: Mkl) -> None:
        (self.weight, self.bias), self.products = weights, products
        i, o, k, _ = self.weight.shape
        images, height, width = size
        if k < stride:
            raise Unsupported(f"tconv with kernel {k} below its stride {stride}")
        self.stride, self.activation = stride, activation(act)
        cut = (k - stride) // 2
        self.taps, first, last = sub_pixel_taps(k, stride, cut)
        self.buffer, self.inside = padded(images, height, width, i, before=last, after=-first)
        self.with_zero = torch.zeros(i, o, k * k + 1)  # the last is the weight where a sub-pixel has no tap
        self.ordered = torch.empty(images, height, stride, width, stride, o)
        self.grad_buffer = torch.zeros(images, stride * (height - 1) + k, stride * (width - 1) + k, o)
        self.grad_inside = self.grad_buffer[:, cut : cut + stride * height, cut : cut + stride * width]

    def forward(self, x: Tensor) -> Tensor:
        (i, o, _, _), s = self.weight.shape, self.stride
        images, height, _, width, _, _ = self.ordered.shape
        self.x = x
        self.inside.copy_(x)
        self.with_zero[..., :-1].copy_(self.weight.flatten(2))
        n = self.buffer.shape[1] - height + 1
        w = self.with_zero[:, :, self.taps].view(i, o, s * s, n, n).permute(2, 1, 0, 3, 4).reshape(-1, i, n, n)
        y = self.products.convolve(self.buffer, w, self.bias.repeat(s * s), [0, 0], [1, 1], self.activation.fused)
        self.ordered.copy_(y.view(images, height, width, s, s, o).transpose(2, 3))
        return self.activation.forward(self.ordered.view(images, s * height, s * width, o))

    def backward(self, grad: Tensor) -> Tensor | None:
        grad = self.activation.backward(grad.reshape(self.grad_inside.shape), self.grad_inside)
        stride = [self.stride, self.stride]
        weight = self.products.kernel_gradient(self.x, self.grad_buffer, self.weight, [0, 0], stride)
        self.gradients = weight, sum_pixels(self.grad_buffer)
        if not self.needs_input_gradient:
            return None
        return self.products.convolve(self.grad_buffer, self.weight, None, [0, 0], stride)


def sub_pixel_taps(k: int, stride: int, cut: int) -> tuple[Tensor, int, int]:
    """Return the taps of a k x k kernel between output sub-pixels and the neighbours of their input pixel.

    Sub-pixel a of pixel j sees pixel j - d through tap stride * d + a + cut. Returns the taps, [s * s * n * n] for
    stride s and n x n neighbours, with k*k for no tap, and the smallest and the largest d.
    """
    first, last = -((stride - 1 + cut) // stride), (k - 1 - cut) // stride
    line = stride * torch.arange(last, first - 1, -1) + torch.arange(stride)[:, None] + cut  # [s, n], of one axis
    rows, columns = line[:, None, :, None], line[None, :, None, :]
    inside = (rows >= 0) & (rows < k) & (columns >= 0) & (columns < k)
    return torch.where(inside, rows * k + columns, k * k).flatten(), first, last
