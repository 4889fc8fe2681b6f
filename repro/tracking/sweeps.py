"""Sweeps in the tracking store: a parent run for each study, and what its trials' runs say of themselves."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from repro import names
from repro.names import Status
from repro.text import first_line
from repro.tracking import reader
from repro.tracking.store import StoreError, experiment_id, open_client
from repro.tracking.writer import NewRun


def mlflow_experiment(name: str) -> str:
    """Where the trials of an experiment are, apart from its other runs."""
    return f"{name} sweeps"


def start_parent(experiment: str, study: str, params: dict[str, str]) -> str:
    """Make the parent of a study's trials; return its id. Raises StoreError."""
    with _said(f"the parent of study {study!r} cannot be made"):
        client = open_client()
        tags = {names.KIND: names.KIND_SWEEP, names.SWEEP: study}
        where = experiment_id(client, mlflow_experiment(experiment))
        run_id = str(client.create_run(where, tags=tags, run_name=f"study {study}").info.run_id)
        client.log_batch(run_id, params=[Param(key, value) for key, value in params.items()])
        return run_id
    raise AssertionError


def place(experiment: str, study: str, parent: str, trial: int, label: str) -> NewRun:
    """Where a trial's run begins."""
    tags = {
        names.PARENT: parent,
        names.SWEEP: study,
        names.TRIAL: str(trial),
        names.TRIAL_STATE: "running",
    }
    return NewRun(mlflow_experiment(experiment), label, tags)


def runs_of(experiment: str, study: str) -> list[reader.RunRecord]:
    """The runs of a study's trials, newest first. Raises StoreError."""
    return [run for run in reader.runs(mlflow_experiment(experiment)) if run.tags.get(names.SWEEP) == study]


def end(run_id: str, state: str, reason: str) -> None:
    """End a run that nobody goes on with, and say why. Raises StoreError."""
    with _said(f"run {run_id} cannot be ended"):
        client = open_client()
        client.log_batch(run_id, tags=[RunTag(names.TRIAL_STATE, state), RunTag(names.ERROR, reason)])
        client.set_terminated(run_id, "KILLED")


def show(parent: str, status: Status | str, best: dict[str, str], value: float | None, done: int) -> None:
    """Bring a study's parent to its present state and its best trial so far. Raises StoreError."""
    with _said("the study's parent cannot be written"):
        client = open_client()
        before = client.get_run(parent)
        tags = [RunTag(key, text) for key, text in best.items() if before.data.tags.get(key) != text]
        logged = {point.step for point in client.get_metric_history(parent, names.BEST_HELDOUT)}
        new = value is not None and done not in logged
        metrics = [Metric(names.BEST_HELDOUT, value, int(time.time() * 1000), done)] if new else []
        if tags or metrics:
            client.log_batch(parent, tags=tags, metrics=metrics)
        if status == "RUNNING" and before.info.status != status:
            client.update_run(parent, status)
        elif before.info.status != status:
            client.set_terminated(parent, status)


def log_files(parent: str, files: dict[str, bytes], folder: str) -> None:
    """Log files, by name, to a study's parent. Raises StoreError."""
    with _said("the study's figures cannot be logged"), tempfile.TemporaryDirectory() as scratch:
        for name, content in files.items():
            (Path(scratch) / name).write_bytes(content)
        open_client().log_artifacts(parent, scratch, folder)


def log_json(parent: str, name: str, value: object) -> None:
    """Log a value as a JSON file to a study's parent. Raises StoreError."""
    log_files(parent, {name: json.dumps(value, indent=2).encode()}, "")


def adopt(parent: str, run_id: str, tags: dict[str, str]) -> None:
    """Make a run a child of a study's parent, with further tags. Raises StoreError."""
    with _said(f"run {run_id} cannot be put under the study's parent"):
        wanted = [RunTag(names.PARENT, parent), *(RunTag(key, text) for key, text in tags.items())]
        open_client().log_batch(run_id, tags=wanted)


@contextmanager
def _said(fault: str) -> Iterator[None]:
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise StoreError(f"{fault}: {first_line(error)}") from None
