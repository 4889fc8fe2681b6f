"""Training a run again from its record, and comparing the two."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from repro import names, provenance
from repro.tracking import read
from repro.training.trainer import Trainer

COMPARED = (names.COST, names.RECONSTRUCTION, names.KL, names.HELDOUT_NEG_ELBO)
TOLERANCE = 2e-3  # of the cost: what rounding in another order may grow to over many epochs


@dataclass(frozen=True)
class Verdict:
    """How a second training agrees with the first.

    `epoch` is the first epoch that differs at all, or None. `largest` is the largest relative difference of a cost.
    `reasons` lists what differs between the two machines and versions.
    """

    agreement: Literal["bit-identical", "equal within float tolerance", "different"]
    epochs: int
    epoch: int | None
    largest: float
    reasons: list[str]


def verify(run: read.RunRecord, trainer: Trainer, epochs: int, tell: Callable[[int, float], None]) -> Verdict:
    """Train `epochs` epochs again and compare each with the store's record, the last one also by its weights.

    `tell` is given each epoch's number and the difference of its cost in nats per image. Training stops at a difference
    beyond TOLERANCE. Raises StoreError if the store cannot be read.
    """
    recorded = {name: read.history(run.run_id, name) for name in COMPARED}
    first, largest = None, 0.0
    for epoch in range(1, epochs + 1):
        row = trainer.epoch(lambda: None)
        tell(epoch, row[names.COST] - recorded[names.COST][epoch])
        if first is None and any(row[name] != recorded[name][epoch] for name in COMPARED):
            first = epoch
        largest = max(largest, abs(row[names.COST] / recorded[names.COST][epoch] - 1))
        if largest > TOLERANCE:
            return Verdict("different", epoch, first, largest, _changes(run))
    weights = run.tags.get(names.WEIGHTS_SHA256)
    if first is None and epochs == trainer.spec.training.epochs and weights and weights != trainer.digest():
        return Verdict("different", epochs, epochs, largest, ["the costs agree, the final weights do not"])
    if first is None:
        return Verdict("bit-identical", epochs, None, 0.0, [])
    return Verdict("equal within float tolerance", epochs, first, largest, _changes(run))


def _changes(run: read.RunRecord) -> list[str]:
    """Return what of the machine and the versions has changed since the run."""
    now = provenance.describe(run.tags.get("repro.gpu", "none"))
    compared = [key for key in now if key in ("repro.cpu", "repro.python") or key.startswith("repro.version")]
    compared.append("mlflow.source.git.commit")
    changes = [f"{key.removeprefix('repro.')}: was {run.tags.get(key, '?')}, is {now[key]}" for key in compared]
    changes = [change for key, change in zip(compared, changes, strict=True) if run.tags.get(key) != now[key]]
    return changes or ["nothing known: same processor, versions, code and thread count"]
