"""Training a run again from its record, and comparing the two."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from repro import names, provenance
from repro.tracking import reader
from repro.training.trainer import Trainer

COMPARED = (names.COST, names.RECONSTRUCTION, names.KL, names.HELDOUT_NEG_ELBO)
TOLERANCE = 2e-3  # of the cost: the size to which rounding in another order may grow over many epochs


@dataclass(frozen=True)
class Verification:
    """How a second training agrees with the first.

    `epoch` is the first epoch that differs at all, or None. `largest` is the largest relative difference of a cost.
    `reasons` lists what differs between the two machines and versions.
    """

    agreement: Literal["bit-identical", "equal within float tolerance", "different"]
    epochs: int
    epoch: int | None
    largest: float
    reasons: list[str]


def verify(run: reader.RunRecord, trainer: Trainer, epochs: int, tell: Callable[[int, float], None]) -> Verification:
    """Train `epochs` epochs again and compare each with the store's record, the last one also by its weights.

    `tell` is given each epoch's number and the difference of its cost in nats per image. Training stops at a difference
    beyond TOLERANCE. Raises StoreError if the store cannot be read.
    """
    recorded = {name: reader.history(run.run_id, name) for name in COMPARED}
    first, largest = None, 0.0
    for epoch in range(1, epochs + 1):
        row = trainer.epoch(lambda: None)
        tell(epoch, row[names.COST] - recorded[names.COST][epoch])
        if first is None and any(row[name] != recorded[name][epoch] for name in COMPARED):
            first = epoch
        largest = max(largest, abs(row[names.COST] / recorded[names.COST][epoch] - 1))
        if largest > TOLERANCE:
            return Verification("different", epoch, first, largest, _changes(run))
    if first is not None:
        return Verification("equal within float tolerance", epochs, first, largest, _changes(run))
    weights = run.tags.get(names.WEIGHTS_SHA256)
    if epochs == trainer.spec.training.epochs and weights and weights != trainer.digest():
        return Verification("different", epochs, epochs, largest, ["the costs agree, the final weights do not"])
    return Verification("bit-identical", epochs, None, 0.0, [])


def _changes(run: reader.RunRecord) -> list[str]:
    """Return the differences of the machine and the versions since the run."""
    now = provenance.describe(run.tags.get("repro.gpu", "none"))
    compared = [key for key in now if key in ("repro.cpu", "repro.python") or key.startswith("repro.version")]
    changed = [key for key in [*compared, "mlflow.source.git.commit"] if run.tags.get(key) != now[key]]
    changes = [f"{key.removeprefix('repro.')}: was {run.tags.get(key, '?')}, is {now[key]}" for key in changed]
    return changes or ["nothing known: same processor, versions, code and thread count"]
