"""A finished run, loaded from the tracking store: its spec, its final weights and its data, to be studied."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from repro import checkpoint, folder, prepare
from repro.data import Dataset
from repro.engine import Settings
from repro.errors import ReproError, UsageError
from repro.model import VAE, build
from repro.spec import Experiment, from_dict
from repro.text import first_line
from repro.tracking import measurements, names, read, store
from repro.tracking.read import RunRecord
from repro.trainer import Trainer

ID_LENGTH = 32  # of MLflow's run ids


@dataclass(frozen=True)
class Finished:
    """A finished run. `model` has its final weights; `settings` are how its steps were computed, threads aside."""

    record: RunRecord
    spec: Experiment
    seed: int
    model: VAE
    dataset: Dataset
    settings: Settings

    def trainer(self) -> Trainer:
        """What trains the same anew, from its initial weights on."""
        return Trainer(self.spec, self.seed, self.dataset, self.settings)


def load(text: str, data_dir: Path | None, threads: int) -> Finished:
    """The finished run whose id is `text`, or begins with it; on the CPU, with so many threads.

    Its data come from `data_dir`, or from where the run had them. Raises UsageError for a run that is unknown, has not
    finished, is of another version of the program or of other data, DataError if its data are not here, StoreError and
    ReproError if the store or an artifact of the run is missing or damaged.
    """
    record = _record(text)
    spec = _spec(record.run_id)
    model = _model(record, spec)
    dataset = _dataset(record, spec, data_dir)
    return Finished(record, spec, int(record.params[names.SEED]), model, dataset, _settings(record, threads))


def _record(text: str) -> RunRecord:
    known = any(run_id.startswith(text) for run_id in folder.every())
    run_id = folder.find(text).run_id if known or len(text) != ID_LENGTH else text
    if not store.exists():  # to read it would make an empty one
        raise UsageError(f"run {run_id} is not known: there is no tracking store in {store.folder()}")
    record = read.run(run_id)
    if names.KIND in record.tags:
        raise UsageError(f"run {record.run_id} is the parent of several seeds and has no model; name one of its runs")
    if record.status != "FINISHED":
        remedy = f"; go on with it: python -m repro resume {run_id[:8]}" if known else ""
        raise UsageError(f"run {run_id} has not finished ({record.status}){remedy}")
    return record


def _spec(run_id: str) -> Experiment:
    content = measurements.artifact(run_id, names.SPEC_FILE)
    try:
        values: Any = json.loads(content)
    except ValueError as error:
        raise ReproError(f"artifact {names.SPEC_FILE} of run {run_id} is damaged: {error}") from None
    try:
        return from_dict(values)
    except UsageError as refused:
        faults = "; ".join(refused.faults)
        raise UsageError(f"run {run_id} is of another version of this program, with another spec: {faults}") from None


def _model(record: RunRecord, spec: Experiment) -> VAE:
    """The final weights, if they are those whose checksum the run recorded."""
    name = names.WEIGHTS_FILE
    content = measurements.artifact(record.run_id, name)
    model = build(spec, 0)
    try:
        tensors = load_tensors(content)
        sound = checkpoint.digest(tensors) == record.tags.get(names.WEIGHTS_SHA256)
        if sound:
            model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise ReproError(f"artifact {name} of run {record.run_id} is damaged: {reason}") from None
    if not sound:
        raise ReproError(f"artifact {name} of run {record.run_id} is damaged: its SHA-256 is not the recorded one")
    return model


def _dataset(record: RunRecord, spec: Experiment, data_dir: Path | None) -> Dataset:
    """The images that the run was trained on, by their fingerprint."""
    stand_in = record.tags.get(names.DATA_STATUS) == "stand-in"
    if data_dir is None and record.run_id in folder.every():
        recorded = folder.load(record.run_id).data_dir
        data_dir = Path(recorded) if recorded else None
    dataset = prepare.load_data(spec, "stand-in" if stand_in else "real", data_dir)
    fingerprint = record.tags.get(names.DATA_FINGERPRINT, "")
    if dataset.fingerprint != fingerprint:
        raise UsageError(
            f"run {record.run_id} was trained on other data (fingerprint {fingerprint[:12]}, here is "
            f"{dataset.fingerprint[:12]}: {dataset.origin}); name the directory it used with --data-dir"
        )
    return dataset


def _settings(record: RunRecord, threads: int) -> Settings:
    params = record.params
    device = "cuda" if params["device"] == "cuda" and torch.cuda.is_available() else "cpu"
    products = "" if params["products"] == "-" else params["products"]
    return Settings(device, threads, cast(Any, params["precision"]), cast(Any, params["engine"]), products)
