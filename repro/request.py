"""What is asked for: an experiment with its data, and how to compute it."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from repro.data import Dataset
from repro.engine import Engine, Precision, Settings, resolve
from repro.folder import Plan
from repro.registry import Entry
from repro.spec import Experiment
from repro.trainer import Trainer


@dataclass(frozen=True)
class Request:
    """What to run: an experiment, its spec after overrides, its data, and where and how to compute it.

    A `trial` is one of many runs that a held-out cost chooses from: it neither looks at the test images nor draws.
    """

    entry: Entry
    spec: Experiment
    dataset: Dataset
    seed: int
    device: torch.device
    threads: int
    precision: Precision = "float32"
    engine: Engine = "auto"
    products: str = ""
    trial: bool = False

    @property
    def settings(self) -> Settings:
        """How its steps are to be computed."""
        return Settings(self.device.type, self.threads, self.precision, self.engine, self.products)

    def resolved(self) -> "Request":
        """The same with the engine and the products that this machine takes for it."""
        found = resolve(self.spec, self.settings)
        return replace(self, engine=found.engine, products=found.products)

    def trainer(self) -> Trainer:
        """What trains it."""
        return Trainer(self.spec, self.seed, self.dataset, self.settings)

    def plan(self, run_id: str, **asked: Any) -> Plan:
        """The same as it is recorded; `asked` is what only the command line knows."""
        return Plan(
            run_id=run_id,
            spec=self.spec.to_dict(),
            seed=self.seed,
            device=self.device.type,
            threads=self.threads,
            precision=self.precision,
            engine=self.engine,
            products=self.products,
            fingerprint=self.dataset.fingerprint,
            trial=self.trial,
            **asked,
        )
