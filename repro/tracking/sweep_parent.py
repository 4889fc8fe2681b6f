"""Sweeps in the tracking store: a parent run for each study, and the runs of its trials as its children."""

import time
from collections.abc import Collection

from mlflow.entities import Metric, Param, RunTag

from repro import names
from repro.names import Status
from repro.tracking import reader
from repro.tracking.store import StoreErrors, experiment_id, open_client
from repro.tracking.writer import NewRun


def mlflow_experiment(name: str) -> str:
    """Return the MLflow experiment that holds the trials of an experiment, apart from its other runs."""
    return f"{name} sweeps"


def start_parent(experiment: str, study: str, params: dict[str, str]) -> str:
    """Start the parent run of a study; return its id. Raises StoreError."""
    with StoreErrors(f"the parent of study {study!r} cannot be made"):
        client = open_client()
        tags = {names.KIND: names.KIND_SWEEP, names.SWEEP: study}
        where = experiment_id(client, mlflow_experiment(experiment))
        run = client.create_run(where, tags=tags, run_name=f"study {study}")
        client.log_batch(run.info.run_id, params=[Param(key, value) for key, value in params.items()])
    return str(run.info.run_id)


def where(experiment: str, study: str, parent: str, trial: int, run_name: str) -> NewRun:
    """Return where a trial's run begins, with its first tags."""
    tags = {names.PARENT: parent, names.SWEEP: study, names.TRIAL: str(trial), names.TRIAL_STATE: "running"}
    return NewRun(mlflow_experiment(experiment), run_name, tags)


def abandon(experiment: str, study: str, trials: Collection[int], seed: int) -> None:
    """End the runs of a seed that belong to these trials, which another run is begun in place of. Raises StoreError."""
    for run in reader.runs(mlflow_experiment(experiment)):
        mine = run.tags.get(names.SWEEP) == study and int(run.tags.get(names.TRIAL, -1)) in trials
        of_seed = run.params.get(names.SEED, str(seed)) == str(seed)
        if mine and of_seed and run.tags.get(names.TRIAL_STATE) != "abandoned":
            end(run.run_id, "abandoned", "another worker began anew, since it could not get at the checkpoints")


def end(run_id: str, state: str, reason: str) -> None:
    """End a run that no worker goes on with. Raises StoreError."""
    with StoreErrors(f"run {run_id} cannot be ended"):
        client = open_client()
        client.log_batch(run_id, tags=[RunTag(names.TRIAL_STATE, state), RunTag(names.ERROR, reason)])
        client.set_terminated(run_id, "KILLED")


def show(parent: str, status: Status | str, best: dict[str, str], value: float | None, complete: int) -> None:
    """Update the status of a study's parent, and its tags and metric of the best trial so far. Raises StoreError.

    `value` is the held-out cost of the best of `complete` trials, nats per image.
    """
    with StoreErrors("the study's parent cannot be written"):
        client = open_client()
        before = client.get_run(parent)
        tags = [RunTag(key, text) for key, text in best.items() if before.data.tags.get(key) != text]
        logged = {point.step for point in client.get_metric_history(parent, names.BEST_HELDOUT)}
        metrics = []
        if value is not None and complete not in logged:
            metrics.append(Metric(names.BEST_HELDOUT, value, int(time.time() * 1000), complete))
        client.log_batch(parent, tags=tags, metrics=metrics)
        if status == "RUNNING" and before.info.status != status:
            client.update_run(parent, status)
        elif before.info.status != status:
            client.set_terminated(parent, status)


def add_child(parent: str, run_id: str, study: str) -> None:
    """Make a run a child of a study's parent. Raises StoreError."""
    with StoreErrors(f"run {run_id} cannot be put under the study's parent"):
        open_client().log_batch(run_id, tags=[RunTag(names.PARENT, parent), RunTag(names.SWEEP, study)])
