"""A run read back from its records: loaded to be measured, or trained again to be verified."""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from repro import names, provenance
from repro.data import Dataset
from repro.engine import Settings
from repro.errors import ReproError, UsageError
from repro.evaluation.measurements import TrainedRun
from repro.model import VAE, build
from repro.runs import ids, run_dir
from repro.runs.config import RunConfig, load_data, require_same_data
from repro.spec import Experiment, from_dict
from repro.text import first_line, plural
from repro.tracking import artifacts, reader, store
from repro.tracking.reader import RunRecord
from repro.training import checkpoint
from repro.training.trainer import Trainer

COMPARED = (names.COST, names.RECONSTRUCTION, names.KL, names.HELDOUT_NEG_ELBO)
TOLERANCE = 2e-3  # of the cost: the size to which rounding in another order may grow over many epochs


@dataclass(frozen=True)
class FinishedRun(TrainedRun):
    """A finished run with its record in the tracking store."""

    record: RunRecord


@dataclass(frozen=True)
class FinishedModel:
    """A finished run without its data set. `settings` are the run's, but for threads."""

    spec: Experiment
    seed: int
    model: VAE
    settings: Settings
    record: RunRecord


def load(text: str, data_dir: Path | None, threads: int) -> FinishedRun:
    """Return the finished run whose id is, or begins with, `text`, with its data set.

    The data come from `data_dir`, or from where the run had them. Raises as `load_model`, and DataError if the data are
    not here, UsageError if they are others.
    """
    run = load_model(text, threads)
    record = run.record
    stand_in = record.tags.get(names.DATA_STATUS) == "stand-in" and data_dir is None
    if data_dir is None and run_dir.exists(record.run_id):
        data_dir = run_dir.load_config(record.run_id).data_dir
    dataset = load_data(run.spec, "stand-in" if stand_in else "real", data_dir)
    require_same_data(record.run_id, record.tags.get(names.DATA_FINGERPRINT, ""), dataset)
    return FinishedRun(run.spec, run.seed, run.model, dataset, run.settings, record)


def load_model(text: str, threads: int) -> FinishedModel:
    """Return the model of the finished run whose id is, or begins with, `text`; it is on the CPU.

    Steps are computed as the run's were, but on the CPU if there is no GPU here. Raises UsageError for a run that is
    unknown, has not finished, or is of another version of the program, StoreError and ReproError if the store or an
    artifact of the run is missing or damaged.
    """
    record = _record(text)
    spec = _spec(record.run_id)
    model = _model(record, spec)
    recorded: dict[str, Any] = {key: record.params[key] for key in ("device", "precision", "engine", "products")}
    recorded["threads"] = threads
    if not torch.cuda.is_available():
        recorded["device"] = "cpu"
    if recorded["products"] == "-":
        recorded["products"] = ""
    settings = TypeAdapter(Settings).validate_python(recorded)
    return FinishedModel(spec, int(record.params[names.SEED]), model, settings, record)


def _record(text: str) -> RunRecord:
    run_id = ids.find_tracked(text)
    if not store.exists():  # to read it would create an empty one
        raise UsageError(f"run {run_id} is not known: there is no tracking store in {store.folder()}")
    if reader.lifecycle(run_id) == "deleted":
        raise UsageError(f"run {run_id} was deleted; python -m repro runs lists those that are left")
    record = reader.run(run_id)
    if names.KIND in record.tags:
        raise UsageError(f"run {record.run_id} is the parent of several seeds and has no model; name one of its runs")
    if record.status != "FINISHED":
        remedy = f"; go on with it: python -m repro resume {run_id[:8]}" if run_dir.exists(run_id) else ""
        if record.tags.get(names.CAUSE) == names.NOT_FINITE:
            remedy = ": its cost was not finite, and a lower optim.lr may help"
        raise UsageError(f"run {run_id} has not finished ({record.status}){remedy}")
    return record


def _spec(run_id: str) -> Experiment:
    try:
        return from_dict(json.loads(artifacts.read_file(run_id, names.SPEC_FILE)))
    except ValueError as error:
        raise ReproError(f"artifact {names.SPEC_FILE} of run {run_id} is damaged: {error}") from None
    except UsageError as refused:
        faults = "; ".join(refused.faults)
        raise UsageError(f"run {run_id} is of another version of this program, with another spec: {faults}") from None


def _model(record: RunRecord, spec: Experiment) -> VAE:
    """Load the final weights, and check them against the checksum that the run recorded."""
    content = artifacts.read_file(record.run_id, names.WEIGHTS_FILE)
    model = build(spec, 0)
    try:
        tensors = load_tensors(content)
        if checkpoint.digest(tensors) != record.tags.get(names.WEIGHTS_SHA256):
            raise ValueError("its SHA-256 is not the recorded one")
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        fault = f"artifact {names.WEIGHTS_FILE} of run {record.run_id} is damaged: {first_line(error)}"
        raise ReproError(fault) from None
    return model


@dataclass(frozen=True)
class Record:
    """What is known of a run: its tags, and by metric the value at each epoch."""

    run_id: str
    tags: dict[str, str]
    histories: dict[str, dict[int, float]]


@dataclass(frozen=True)
class Verification:
    """How a second training agrees with the first.

    `first` is the first epoch that differs, or None; `largest` is the largest relative difference of a cost; `reasons`
    is what is not as it was.
    """

    run_id: str
    agreement: Literal["bit-identical", "equal within float tolerance", "different"]
    epochs: int  # trained again
    recorded: int  # epochs that the run has
    first: int | None
    largest: float
    reasons: list[str]


def record(run_id: str) -> Record:
    """Return what the tracking store knows of a run. Raises StoreError."""
    return Record(run_id, reader.run(run_id).tags, {name: reader.history(run_id, name) for name in COMPARED})


def verify(
    run: Record,
    before: RunConfig,
    dataset: Dataset,
    epochs: int | None,
    threads: int,
    tell: Callable[[str], None],
    on_step: Callable[[int, int], None],
) -> Verification:
    """Train the first `epochs` epochs of a run again, by default all that it has; compare each with the record.

    The weights are compared after the last epoch. `before` is the recorded configuration. `tell` is given what is
    trained, a line on each epoch, and how the two agree; `on_step` the steps done and all steps. Training stops at a
    difference beyond TOLERANCE. Raises ReproError if the run has no epoch.
    """
    recorded = run.histories
    done = len(recorded.get(names.COST, {}))
    if not done:
        raise ReproError(f"run {run.run_id} has no epoch to verify")
    epoch, first, largest, count = 0, 0, 0.0, min(epochs or done, done)
    tell(
        f"verify run {run.run_id}: {before.entry.name}, seed {before.seed}, {count} of {plural(done, 'epoch')}, "
        f"{plural(threads, 'thread')}, {dataset.name} ({dataset.status})"
    )
    trainer = Trainer(before.spec, before.seed, dataset, replace(before, threads=threads).settings)
    steps = itertools.count(1)
    while epoch < count and largest <= TOLERANCE:
        epoch += 1
        row = trainer.epoch(lambda: on_step(next(steps), count * trainer.steps_per_epoch))
        difference = row[names.COST] - recorded[names.COST][epoch]
        tell(f"epoch {epoch:4d}/{count}  cost differs by {difference:+.3g} nats")
        if not first and any(row[name] != recorded[name][epoch] for name in COMPARED):
            first = epoch  # that differs at all
        largest = max(largest, abs(row[names.COST] / recorded[names.COST][epoch] - 1))
    weights, whole = run.tags.get(names.WEIGHTS_SHA256), epoch == before.spec.training.epochs
    agreement: Any = "bit-identical"
    reasons = [f"threads: was {before.threads}, is {threads}"] if threads != before.threads else []
    if first:
        agreement = "different" if largest > TOLERANCE else "equal within float tolerance"
        reasons += _changes(run)
    elif whole and weights and weights != trainer.digest():
        agreement, first = "different", epoch
        reasons.append("the costs agree, the final weights do not")
    tell(f"run {run.run_id}, {epoch} of {done} epochs: {agreement}")
    if first:
        tell(f"first epoch that differs: {first}; largest relative difference of a cost {largest:.2g}")
        tell("\n  ".join(["what is not as it was:", *reasons]))
    return Verification(run.run_id, agreement, epoch, done, first or None, largest, reasons)


def _changes(run: Record) -> list[str]:
    """Return the differences of the machine and the versions since the run."""
    now = provenance.describe(run.tags.get("repro.gpu", "none"))
    compared = [key for key in now if key in ("repro.cpu", "repro.python") or key.startswith("repro.version")]
    changed = [key for key in [*compared, "mlflow.source.git.commit"] if run.tags.get(key) != now[key]]
    changes = [f"{key.removeprefix('repro.')}: was {run.tags.get(key, '?')}, is {now[key]}" for key in changed]
    return changes or ["nothing known: same processor, versions, code and thread count"]
