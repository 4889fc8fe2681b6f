"""Training a run again from its record, and comparing the two."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from repro import names, provenance
from repro.data import Dataset
from repro.errors import ReproError
from repro.runs.config import RunConfig
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
    epochs: int  # trained again
    recorded: int  # epochs that the run has
    epoch: int | None
    largest: float
    reasons: list[str]


def verify(
    run_id: str, config: RunConfig, dataset: Dataset, epochs: int | None, tell: Callable[[str], None]
) -> Verification:
    """Train the first `epochs` epochs of a run again, by default all that it has; compare each with the store's record.

    `config` is the recorded one, with the number of threads to use now. The weights are compared after the last epoch.
    `tell` is given a line on each epoch. Training stops at a difference beyond TOLERANCE. Raises ReproError if the
    run has no epoch, and StoreError if the store cannot be read.
    """
    run = reader.run(run_id)
    recorded = {name: reader.history(run_id, name) for name in COMPARED}
    done = len(recorded[names.COST])
    if not done:
        raise ReproError(f"run {run_id} has no epoch to verify")
    epochs = min(epochs or done, done)
    trainer = Trainer(config.spec, config.seed, dataset, config.settings)
    first, largest = None, 0.0
    for epoch in range(1, epochs + 1):
        row = trainer.epoch(lambda: None)
        difference = row[names.COST] - recorded[names.COST][epoch]
        tell(f"epoch {epoch:4d}/{epochs}  cost differs by {difference:+.3g} nats")
        if first is None and any(row[name] != recorded[name][epoch] for name in COMPARED):
            first = epoch
        largest = max(largest, abs(row[names.COST] / recorded[names.COST][epoch] - 1))
        if largest > TOLERANCE:
            return Verification("different", epoch, done, first, largest, _changes(run))
    if first is not None:
        return Verification("equal within float tolerance", epochs, done, first, largest, _changes(run))
    weights = run.tags.get(names.WEIGHTS_SHA256)
    if epochs == trainer.spec.training.epochs and weights and weights != trainer.digest():
        return Verification("different", epochs, done, epochs, largest, ["the costs agree, the final weights do not"])
    return Verification("bit-identical", epochs, done, None, 0.0, [])


def _changes(run: reader.RunRecord) -> list[str]:
    """Return the differences of the machine and the versions since the run."""
    now = provenance.describe(run.tags.get("repro.gpu", "none"))
    compared = [key for key in now if key in ("repro.cpu", "repro.python") or key.startswith("repro.version")]
    changed = [key for key in [*compared, "mlflow.source.git.commit"] if run.tags.get(key) != now[key]]
    changes = [f"{key.removeprefix('repro.')}: was {run.tags.get(key, '?')}, is {now[key]}" for key in changed]
    return changes or ["nothing known: same processor, versions, code and thread count"]
