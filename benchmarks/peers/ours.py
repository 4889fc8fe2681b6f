"""This project's own training, epoch after epoch as in a run."""

from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from repro import registry
from repro.engine import Engine, Settings, choose, plain
from repro.model import build
from repro.training.loop import epoch_noise, epoch_order

from .workload import Request

VERSIONS = {"torch": torch.__version__}


class Peer:
    """The step that a run with the same settings chooses.

    The engine "compiled" is the plain step with its costs, forward and backward, under `torch.compile`.
    """

    def __init__(self, request: Request, images: NDArray[np.uint8]) -> None:
        torch.set_num_threads(request.threads)
        self.experiment, self.seed = registry.get(request.workload.experiment).spec, request.seed
        self.images = torch.from_numpy(images)
        model = build(self.experiment, self.seed)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        if request.engine == "compiled":
            plain.training_losses = torch.compile(plain.training_losses)
        engine: Engine = "auto" if request.engine == "auto" else "plain"
        self.step = choose(self.experiment, model, Settings("cpu", request.threads, request.precision, engine))
        chosen = self.step.settings
        products = chosen.products or "mkl"  # of `F.linear`
        self.facts = {"engine": chosen.engine, "products": products, "precision": request.precision}
        self.costs = self._costs()

    def run(self, steps: int) -> list[float]:
        return [next(self.costs) for _ in range(steps)]

    def _costs(self) -> Iterator[float]:
        for epoch in count(1):
            order = epoch_order(len(self.images), self.experiment.data, self.seed, epoch)
            noise = epoch_noise(len(self.images), self.experiment, self.seed, epoch)
            for costs in self.step.epoch(self.images, order, noise):
                yield from costs.sum(1).tolist()
