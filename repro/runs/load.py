"""A finished run, loaded from the tracking store with its final weights and its data, to be measured."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from repro import names
from repro.data import Dataset
from repro.engine import Settings
from repro.errors import ReproError, UsageError
from repro.evaluation.measurements import TrainedRun
from repro.model import VAE, build
from repro.runs import run_dir
from repro.runs.config import load_data, require_same_data
from repro.spec import Experiment, from_dict
from repro.text import first_line
from repro.tracking import artifacts, reader, store
from repro.tracking.reader import RunRecord
from repro.training import checkpoint

ID_LENGTH = 32  # of MLflow's run ids


@dataclass(frozen=True)
class FinishedRun(TrainedRun):
    """A finished run with its record in the tracking store."""

    record: RunRecord


def load(text: str, data_dir: Path | None, threads: int) -> FinishedRun:
    """Return the finished run whose id is, or begins with, `text`; its model is on the CPU.

    The data come from `data_dir`, or from where the run had them. Raises UsageError for a run that is unknown, has not
    finished, is of another version of the program or of other data, DataError if its data are not here, StoreError and
    ReproError if the store or an artifact of the run is missing or damaged.
    """
    record = _record(text)
    spec = _spec(record.run_id)
    model = _model(record, spec)
    dataset = _dataset(record, spec, data_dir)
    return FinishedRun(spec, int(record.params[names.SEED]), model, dataset, _settings(record, threads), record)


def _record(text: str) -> RunRecord:
    known = any(run_id.startswith(text) for run_id in run_dir.run_ids())
    run_id = run_dir.find(text) if known or len(text) != ID_LENGTH else text
    if not store.exists():  # to read it would create an empty one
        raise UsageError(f"run {run_id} is not known: there is no tracking store in {store.folder()}")
    record = reader.run(run_id)
    if names.KIND in record.tags:
        raise UsageError(f"run {record.run_id} is the parent of several seeds and has no model; name one of its runs")
    if record.status != "FINISHED":
        remedy = f"; go on with it: python -m repro resume {run_id[:8]}" if known else ""
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


def _dataset(record: RunRecord, spec: Experiment, data_dir: Path | None) -> Dataset:
    """Load the images that the run was trained on, and check their fingerprint."""
    stand_in = record.tags.get(names.DATA_STATUS) == "stand-in"
    if data_dir is None and run_dir.exists(record.run_id):
        data_dir = run_dir.load_config(record.run_id).data_dir
    dataset = load_data(spec, "stand-in" if stand_in else "real", data_dir)
    require_same_data(record.run_id, record.tags.get(names.DATA_FINGERPRINT, ""), dataset)
    return dataset


def _settings(record: RunRecord, threads: int) -> Settings:
    """Return how the run's steps were computed, on the CPU if there is no GPU here."""
    recorded: dict[str, Any] = {key: record.params[key] for key in ("device", "precision", "engine", "products")}
    if recorded["device"] != "cuda" or not torch.cuda.is_available():
        recorded["device"] = "cpu"
    if recorded["products"] == "-":
        recorded["products"] = ""
    return TypeAdapter(Settings).validate_python(recorded | {"threads": threads})
