"""Adam through torch's fused operator. `torch.optim` is not imported: it takes a second to, and does the same."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from repro import spec


class Adam:
    """Moments of some tensors, and their update."""

    def __init__(self, settings: spec.Adam, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        self.exp_avg = [torch.zeros_like(tensor) for tensor in tensors]
        self.exp_avg_sq = [torch.zeros_like(tensor) for tensor in tensors]
        self.move = functools.partial(
            torch._fused_adam_,
            lr=settings.lr,
            beta1=settings.beta1,
            beta2=settings.beta2,
            eps=settings.epsilon,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
        )

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor], steps: Tensor, rows: slice = slice(None)) -> None:
        """Move some rows of the tensors, by gradients of these rows. `steps`, a scalar, counts this one already."""
        values, means, squares = ([t[rows] for t in each] for each in (self.tensors, self.exp_avg, self.exp_avg_sq))
        laid = [  # the operator walks through memory, so that a gradient must lie there as its parameter does
            g if g.stride() == p.stride() else torch.empty_like(p).copy_(g)
            for g, p in zip(gradients, values, strict=True)
        ]
        self.move(values, laid, means, squares, [], [steps] * len(values))


def named_state(
    names: Sequence[str], exp_avg: Sequence[Tensor], exp_avg_sq: Sequence[Tensor], steps: Tensor
) -> dict[str, Tensor]:
    """The optimiser's state by the names of the model's parameters, and the number of steps, as any engine has it."""
    moments = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    found = {f"{name}/{key}": t for key, each in moments.items() for name, t in zip(names, each, strict=True)}
    return found | {"steps": steps}


def load_state(state: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Copy `tensors` into a state of the same names."""
    for name, tensor in state.items():
        tensor.copy_(tensors[name])
