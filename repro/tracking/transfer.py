"""A whole run out of one tracking store and into another: params, tags, data set, every logged value, small files."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag
from pydantic import BaseModel, ConfigDict, StringConstraints

from repro import names
from repro.names import Status
from repro.tracking import artifacts, layout, reader
from repro.tracking.store import Client, experiment_id
from repro.tracking.writer import log_settings

KINDS = (".json", ".csv", ".safetensors")
"""Suffixes of the artifacts that are taken; no other is needed to judge a run."""
LEFT_OUT = ("checkpoints", "generator", "images", names.BY_EPOCH)
"""Artifact folders that are not taken."""
MADE_HERE = (names.PARENT, names.VERDICT, names.RUN_ID, names.BEGUN, names.INCOMPLETE, "mlflow.note.content")
"""Tags that each store makes for itself."""
BATCH = 1000  # metrics that the store takes in one call

Name = Annotated[str, StringConstraints(pattern=r"^[\w.-]+$", max_length=250)]
Key = Annotated[str, StringConstraints(pattern=r"^[\w./ :-]+$", max_length=250)]
Text = Annotated[str, StringConstraints(max_length=8000)]


class Input(BaseModel):
    """The data set of a run, as MLflow describes it."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    digest: Name
    source: Text
    profile: Text


class StoredRun(BaseModel):
    """What the tracking store says of a run, but its logged values and its files. Times are milliseconds since 1970."""

    model_config = ConfigDict(extra="forbid")
    run_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    experiment: Name
    name: Text
    status: Status
    started: int
    ended: int | None
    params: dict[Key, Text]
    tags: dict[Key, Text]
    inputs: list[Input]


def read(run_id: str) -> tuple[StoredRun, pd.DataFrame]:
    """Return a run and its logged values: metric, step, value and time, in this order of columns. Raises StoreError.

    A value that was measured again, as `evaluate` does with the entropy floor, counts as it was logged last.
    """
    with Client(f"run {run_id} cannot be read") as client:
        found = client.get_run(reader.store_id(run_id))
        info, (params, tags) = found.info, layout.unpack(found.data)
        datasets = [each.dataset for each in found.inputs.dataset_inputs]
        run = StoredRun(
            run_id=run_id,
            experiment=client.get_experiment(info.experiment_id).name,
            name=info.run_name,
            status=info.status,
            started=info.start_time,
            ended=info.end_time,
            params=dict(sorted(params.items())),
            tags={key: value for key, value in sorted(tags.items()) if key not in MADE_HERE},
            inputs=[Input(name=d.name, digest=d.digest, source=d.source, profile=d.profile) for d in datasets],
        )
        rows = [
            (name, point.step, point.value, point.timestamp)
            for name in sorted(layout.metrics(found.data))
            for point in layout.points(client, info.run_id, name)
        ]
    table = pd.DataFrame(rows, columns=["metric", "step", "value", "time"])
    in_order = table.sort_values(["metric", "step", "time"], kind="stable")
    return run, in_order.drop_duplicates(["metric", "step"], keep="last", ignore_index=True)


def files_of(run_id: str) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of the artifacts of a run that a bundle takes. Raises StoreError."""
    with Client(f"the artifacts of run {run_id} cannot be listed") as client:
        paths = list(_paths(client, reader.store_id(run_id), ""))
    for path in sorted(paths):
        yield path, artifacts.read_file(run_id, path)


def _paths(client: MlflowClient, mlflow_id: str, folder: str) -> Iterator[str]:
    for item in client.list_artifacts(mlflow_id, folder):
        if item.is_dir and item.path not in LEFT_OUT:
            yield from _paths(client, mlflow_id, item.path)
        elif item.path.endswith(KINDS):
            yield item.path


def differences(mine: tuple[StoredRun, pd.DataFrame], theirs: tuple[StoredRun, pd.DataFrame]) -> list[str]:
    """Return what differs between two records of one run, each difference as `name: here X, there Y`."""
    here, there = ({**run.params, **run.tags, "status": run.status} for run, _ in (mine, theirs))
    found = [
        f"{key}: here {here.get(key, 'nothing')!r}, there {there.get(key, 'nothing')!r}"
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    ]
    keys = ["metric", "step"]
    both = mine[1].merge(theirs[1], how="outer", on=keys, suffixes=("_here", "_there"))
    for row in both[both["value_here"] != both["value_there"]].itertuples():
        found.append(f"{row.metric} at step {row.step}: here {row.value_here}, there {row.value_there}")
    return found


def create(run: StoredRun, values: pd.DataFrame, files: Iterator[tuple[str, bytes]]) -> None:
    """Log a run that the store does not have. Until all of it is there, it has the tag repro.incomplete.

    What an earlier attempt left incomplete is deleted. MLflow chooses the ids of its runs; the run's own id is a tag.
    """
    with Client(f"run {run.run_id} cannot be imported") as client:
        experiment = experiment_id(client, run.experiment)
        for left in reader.search(client, experiment, f"tags.`{names.RUN_ID}` = '{run.run_id}'"):
            client.set_terminated(left.info.run_id, "KILLED")  # else MLflow shows it as RUNNING for ever
            client.delete_run(left.info.run_id)
        mark = {names.RUN_ID: run.run_id, names.INCOMPLETE: "being imported"}
        made = client.create_run(experiment, start_time=run.started, tags=mark, run_name=run.name).info.run_id
        log_settings(client, made, run.params, {key: run.tags[key] for key in run.tags if key not in MADE_HERE})
        points = [
            layout.metric(*row)
            for row in values[["metric", "value", "time", "step"]].itertuples(index=False, name=None)
        ]
        for start in range(0, len(points), BATCH):
            client.log_batch(made, metrics=points[start : start + BATCH])
        context = [InputTag("mlflow.data.context", "training")]
        datasets = [Dataset(each.name, each.digest, "local", each.source, profile=each.profile) for each in run.inputs]
        client.log_inputs(made, [DatasetInput(dataset, context) for dataset in datasets])
        with tempfile.TemporaryDirectory() as scratch:
            for path, content in files:
                target = Path(scratch) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            client.log_artifacts(made, scratch)
        if run.status == "RUNNING":
            client.update_run(made, "RUNNING")
        else:
            client.set_terminated(made, run.status, run.ended)
        client.delete_tag(made, names.INCOMPLETE)
    reader.forget_ids()
