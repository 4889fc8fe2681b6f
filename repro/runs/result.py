"""RunResult: the outcome of a run, and whether its cost may be compared with a reported cost."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from repro.data import Dataset
from repro.errors import ReproError
from repro.names import Status
from repro.signals import Interrupted
from repro.spec import Experiment
from repro.spec.registry import Entry
from repro.text import plural
from repro.training.loop import NotFiniteError

Cause = Literal["", "interrupted", "pruned", "not finite", "error"]
"""Why a run ended early: by a signal, by its reporter, at a cost that is no number, by any other error."""
UNFINISHED = "it did not finish"


class PrunedError(Exception):
    """Raised by a reporter to stop a run early; the message gives the reason."""


@dataclass(frozen=True)
class DataSource:
    """The data set that a run was trained on."""

    source: str
    canonical: bool
    fingerprint: str

    @classmethod
    def of(cls, dataset: Dataset) -> "DataSource":
        return cls(dataset.origin, dataset.status == "canonical", dataset.fingerprint)


@dataclass(frozen=True)
class ReportedCost:
    """A reported cost beside a run's cost at the same epoch, nats per image; `difference` is run minus reported."""

    epoch: int
    reported: float
    cost: float
    difference: float


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The outcome of a run. Costs are nats per image; `cost` and `heldout_neg_elbo` are the last epoch's."""

    run_id: str  # "" if the run was never started
    status: Status
    experiment: str
    seed: int
    epochs: int
    cost: float | None = None
    heldout_neg_elbo: float | None = None
    test_neg_elbo: float | None = None
    seconds: float = 0.0
    data: DataSource
    reasons: tuple[str, ...] = ()  # why its cost may not be compared with a reported one
    reported: tuple[ReportedCost, ...] = ()
    error: str | None = None
    cause: Cause = ""
    exit_code: int = 0

    @property
    def comparable(self) -> bool:
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `--summary` and `summary.json` hold; `from_json` is the inverse."""
        values = {key: value for key, value in asdict(self).items() if key not in ("cause", "exit_code")}
        return values | {"run_id": self.run_id or None, "comparable": self.comparable}

    @classmethod
    def from_json(cls, values: Any) -> "RunResult":
        """Read the value of `to_json`, of this or an earlier version. Raises ValueError."""
        return TypeAdapter(cls).validate_python(values)


def not_comparable(entry: Entry, spec: Experiment, dataset: Dataset, precision: str = "float32") -> tuple[str, ...]:
    """Return why the cost of such a run may not be compared with any reported cost; empty if it may.

    A run that is longer or shorter than the experiment counts for each reported cost whose epoch it reaches.
    """
    reasons = []
    if dataset.status == "stand-in":
        reasons.append("it was trained on a stand-in, not on the real data")
    if precision != "float32":
        reasons.append(f"it was computed in {precision} precision, not in float32")
    reported = [each.epoch for each in entry.spec.reported]
    if not reported:
        return (*reasons, "the experiment names no reported cost")
    epochs = spec.training.epochs
    if epochs < min(reported):
        first = "first reported cost" if len(reported) > 1 else "reported cost"
        reasons.append(f"it was set to {plural(epochs, 'epoch')}; the {first} is of epoch {min(reported)}")
    changed = [key for key in entry.spec.differences(spec) if key != "training.epochs"]
    return (*reasons, *([f"it overrides {', '.join(changed)}"] if changed else []))


def beside_reported(spec: Experiment, costs: list[float]) -> tuple[ReportedCost, ...]:
    """Return the costs of a run's epochs, nats per image, beside each reported cost whose epoch it has reached."""
    reached = [(each.epoch, each.cost, costs[each.epoch - 1]) for each in spec.reported if each.epoch <= len(costs)]
    return tuple(ReportedCost(epoch, reported, cost, cost - reported) for epoch, reported, cost in reached)


def how_it_ended(error: BaseException | None) -> tuple[Status, Cause, str | None, int]:
    """Return status, cause, message and exit code of a run that this error has ended, or None."""
    match error:
        case None:
            return "FINISHED", "", None, 0
        case Interrupted():
            return "KILLED", "interrupted", f"interrupted by {error}", error.exit_code
        case PrunedError():
            return "KILLED", "pruned", str(error), 0
        case NotFiniteError():
            return "FAILED", "not finite", str(error), 1
        case ReproError() | OSError():
            return "FAILED", "error", str(error), 1
        case _:
            return "FAILED", "error", repr(error), 1
