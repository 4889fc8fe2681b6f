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
    error: str | None = None
    cause: str = ""
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields that `--summary` writes."""
        return {key: value for key, value in asdict(self).items() if key not in ("cause", "exit_code")}


def not_comparable(entry: Entry, spec: Experiment, dataset: Dataset, precision: str = "float32") -> list[str]:
    """Why the cost of such a run says nothing about the reported cost; empty if it does."""
    reasons = []
    if dataset.status == "stand-in":
        reasons.append("it was trained on a stand-in, not on the real data")
    if precision != "float32":
        reasons.append(f"it was computed in {precision} precision; the reported cost is of float32")
    if entry.spec.reported is None:
        return [*reasons, "the experiment names no reported cost"]
    epochs, reported = spec.training.epochs, entry.spec.reported.epoch
    if epochs != reported:
        reasons.append(f"it was set to {epochs} epoch{'s' * (epochs > 1)}; the reported cost is of epoch {reported}")
    registered, values = entry.spec.flat(), spec.flat()
    changed = [key for key in sorted(registered | values) if registered.get(key) != values.get(key)]
    changed = [key for key in changed if key != "training.epochs"]
    return reasons + ([f"it overrides {', '.join(changed)}"] if changed else [])
