"""Adam through torch's fused operator. `torch.optim`, which takes a second to import, calls the same operator."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from repro import spec

ENDLESS = 1e9  # steps after which 1 - beta**steps is 1 for every beta that can be written as a float32


class Adam:
    """The moments of some tensors, and their update.

    The fused operator adds epsilon to the root of the corrected second moment, sqrt(v / (1 - beta2**t)). With epsilon
    at the uncorrected root the update is lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + epsilon). The same
    operator computes it at a step count so large that nothing is left to correct, with a learning rate that contains
    both corrections. With `capturable` this learning rate is computed on the tensors' device, for a CUDA graph.
    """

    def __init__(self, settings: spec.Adam, tensors: Sequence[Tensor], capturable: bool = False) -> None:
        self.settings, self.tensors, self.capturable = settings, list(tensors), capturable
        self.exp_avg = [torch.zeros_like(tensor) for tensor in tensors]
        self.exp_avg_sq = [torch.zeros_like(tensor) for tensor in tensors]
        self.endless = torch.full((), ENDLESS, device=tensors[0].device)

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor], steps: Tensor) -> None:
        """Move the tensors by their gradients. `steps`, a scalar, already counts this step."""
        laid = [  # the operator walks through memory: a gradient must have the strides of its parameter
            g if g.stride() == p.stride() else torch.empty_like(p).copy_(g)
            for g, p in zip(gradients, self.tensors, strict=True)
        ]
        rate, counted = self._rate(steps)
        torch._fused_adam_(
            self.tensors, laid, self.exp_avg, self.exp_avg_sq, [], [counted] * len(laid),
            lr=rate, beta1=self.settings.beta1, beta2=self.settings.beta2, eps=self.settings.epsilon,
            weight_decay=0.0, amsgrad=False, maximize=False,
        )  # fmt: skip

    def _rate(self, steps: Tensor) -> tuple[float | Tensor, Tensor]:
        """Return the learning rate and the step count for the operator."""
        lr, beta1, beta2 = self.settings.lr, self.settings.beta1, self.settings.beta2
        if self.settings.epsilon_at == "sqrt_corrected":
            return lr, steps
        if self.capturable:
            first, second = 1 - beta1 ** steps.double(), 1 - beta2 ** steps.double()
            return (lr * second.sqrt() / first).float(), self.endless
        t = float(steps)
        return lr * math.sqrt(1 - beta2**t) / (1 - beta1**t), self.endless


def named_state(
    names: Sequence[str], exp_avg: Sequence[Tensor], exp_avg_sq: Sequence[Tensor], steps: Tensor
) -> dict[str, Tensor]:
    """Return the optimiser's state as `PARAMETER/MOMENT`, and the number of steps as `steps`."""
    moments = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    found = {f"{name}/{key}": t for key, each in moments.items() for name, t in zip(names, each, strict=True)}
    return found | {"steps": steps}
