"""What a run came to, and whether it may be compared with the reported cost."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from repro.data import Dataset
from repro.registry import Entry
from repro.spec import Experiment

Status = Literal["FINISHED", "FAILED", "KILLED"]


class PrunedError(Exception):
    """Whoever watches a run wants no more of it; the message says why."""


@dataclass
class Summary:
    """What a run came to. Costs are nats per image; `cost` and `heldout_neg_elbo` are the last epoch's.

    `cause` is the name of the class of what ended it early.
    """

    run_id: str
    status: Status
    experiment: str
    seed: int
    epochs: int
    cost: float | None
    heldout_neg_elbo: float | None
    test_neg_elbo: float | None
    seconds: float
    data: dict[str, Any]
    comparable: bool
    reasons: list[str] = field(default_factory=list)  # why it is not comparable
    reported: list[dict[str, Any]] = field(default_factory=list)  # see `beside_reported`
    error: str | None = None
    cause: str = ""
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields that `--summary` writes."""
        return {key: value for key, value in asdict(self).items() if key not in ("cause", "exit_code")}


def not_comparable(entry: Entry, spec: Experiment, dataset: Dataset, precision: str = "float32") -> list[str]:
    """Why the costs of such a run say nothing about any reported cost; empty if they do.

    A run that is longer or shorter than the experiment counts for each reported cost whose epoch it reaches.
    """
    reasons = []
    if dataset.status == "stand-in":
        reasons.append("it was trained on a stand-in, not on the real data")
    if precision != "float32":
        reasons.append(f"it was computed in {precision} precision; the reported cost is of float32")
    if not entry.spec.reported:
        return [*reasons, "the experiment names no reported cost"]
    epochs, first = spec.training.epochs, min(reported.epoch for reported in entry.spec.reported)
    if epochs < first:
        first_reported = "first reported cost" if len(entry.spec.reported) > 1 else "reported cost"
        reasons.append(f"it was set to {epochs} epoch{'s' * (epochs > 1)}; the {first_reported} is of epoch {first}")
    registered, values = entry.spec.flat(), spec.flat()
    changed = [key for key in sorted(registered | values) if registered.get(key) != values.get(key)]
    changed = [key for key in changed if key != "training.epochs"]
    return reasons + ([f"it overrides {', '.join(changed)}"] if changed else [])


def beside_reported(spec: Experiment, costs: list[float]) -> list[dict[str, Any]]:
    """The costs of a run's epochs, nats per image, beside each reported cost whose epoch it has reached."""
    reached = [reported for reported in spec.reported if reported.epoch <= len(costs)]
    return [
        {"epoch": each.epoch, "reported": each.cost, "cost": costs[each.epoch - 1]}
        | {"difference": costs[each.epoch - 1] - each.cost}
        for each in reached
    ]
