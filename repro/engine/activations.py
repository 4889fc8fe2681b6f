"""Activations with hand-written gradients, in as few passes over memory as the operators at hand allow."""

import torch
from torch import Tensor

from repro.engine.step import Unsupported


class Identity:
    """What is done in the product itself (`fused`) costs no pass of its own."""

    fused = "none"
    y: Tensor

    def forward(self, y: Tensor) -> Tensor:
        """What is left to do after the product, and keep for the way back; `y` may be overwritten."""
        self.y = y
        return y

    def backward(self, grad: Tensor, out: Tensor) -> Tensor:
        """Gradient of the cost by the input of the activation, into `out`, which may be `grad` itself.

        Any shape of `grad` will do that the output's memory can be viewed in.
        """
        return grad if out is grad else out.copy_(grad)


class Relu(Identity):
    """max(a, 0)."""

    fused = "relu"

    def backward(self, grad: Tensor, out: Tensor) -> Tensor:
        """See `Identity`."""
        torch.ops.aten.threshold_backward.grad_input(grad, self.y.view(grad.shape), 0, grad_input=out)
        return out


class Tanh(Identity):
    """tanh a."""

    fused = "tanh"

    def backward(self, grad: Tensor, out: Tensor) -> Tensor:
        """See `Identity`."""
        torch.ops.aten.tanh_backward.grad_input(grad, self.y.view(grad.shape), grad_input=out)
        return out


class Sigmoid(Identity):
    """1 / (1 + exp(-a))."""

    fused = "sigmoid"

    def backward(self, grad: Tensor, out: Tensor) -> Tensor:
        """See `Identity`."""
        torch.ops.aten.sigmoid_backward.grad_input(grad, self.y.view(grad.shape), grad_input=out)
        return out


class Softplus(Identity):
    """log(1 + exp(a)) as -log t with t = sigmoid(-a), and its derivative sigmoid(a) as 1 - t.

    `torch.log1p`, and with it `F.softplus`, takes ten times as long as `sigmoid` and `log` together. -log t loses no
    absolute precision: t is near 1 where the result is near 0. Below t = exp(-80) the result is a itself.
    """

    LARGEST = 80.0  # exp(-80) is still a normal float32
    t: Tensor

    def forward(self, y: Tensor) -> Tensor:
        """See `Identity`."""
        self.t = torch.neg(y).clamp_(min=-self.LARGEST).sigmoid_()
        return torch.maximum(torch.log(self.t).neg_(), y, out=y)

    def backward(self, grad: Tensor, out: Tensor) -> Tensor:
        """See `Identity`."""
        return torch.addcmul(grad, grad, self.t.view(grad.shape), value=-1, out=out)


_ACTIVATIONS = {"identity": Identity, "relu": Relu, "tanh": Tanh, "sigmoid": Sigmoid, "softplus": Softplus}


def activation(name: str) -> Identity:
    """One layer's activation by its name in the spec. Raises Unsupported."""
    if name not in _ACTIVATIONS:
        raise Unsupported(f"activation {name}")
    return _ACTIVATIONS[name]()
