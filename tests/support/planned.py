"""Outcomes of the planned seeds of mnist_fc, and their verdict."""

from typing import Any

import numpy as np
from repro.analysis import verdicts
from repro.analysis.verdicts import Verdict

from repro import registry
from support import synthetic

FC = registry.get("mnist_fc")
LAST = FC.spec.reported[-1]
PLANNED = LAST.seeds
OFFSETS = np.linspace(-1, 1, len(PLANNED))  # their standard deviation is 0.66


def planned(off: float, half_range: float) -> list[dict[str, Any]]:
    """A finished run of every planned seed, costs around reported + off."""
    costs = LAST.cost + off + half_range * OFFSETS
    return [{"seed": seed, "cost": cost} for seed, cost in zip(PLANNED, costs, strict=True)]


def judged(rows: list[dict[str, Any]]) -> Verdict:
    return verdicts.verdict(FC, LAST, synthetic.tables("mnist_fc", rows))


def failed(seed: int, status: str, epochs: int = 30) -> dict[str, Any]:
    reason = "it failed: the cost is not finite"
    return {"seed": seed, "cost": 0.0, "status": status, "epochs": epochs, "comparable": False, "reason": reason}
