"""Reading runs back from the tracking store."""

import re
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from PIL import Image

from repro import names
from repro.tracking import layout
from repro.tracking.store import Client, uri


@dataclass(frozen=True)
class RunRecord:
    """A tracked run: `metrics` holds last values, `params` and `tags` all that was logged, shown in MLflow or not."""

    run_id: str
    experiment: str
    status: str
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]
    started: str  # UTC, ISO 8601 to the second
    started_ms: int  # milliseconds since 1970

    @property
    def comparable(self) -> bool:
        """Whether the run may be compared with the reported cost."""
        return self.status == "FINISHED" and self.tags.get(names.COMPARABLE) == "true"


def experiments() -> list[str]:
    """Return the names of the store's experiments. Raises StoreError."""
    with Client("the experiments cannot be read") as client:
        return [each.name for each in client.search_experiments()]


def deleted() -> list[str]:
    """Return the ids of the runs that were deleted, and that `mlflow gc` has not removed. Raises StoreError."""
    with Client("the deleted runs cannot be read") as client:
        every = [each.experiment_id for each in client.search_experiments(view_type=ViewType.ALL)]
        return [own_id(run) for each in every for run in search(client, each, view=ViewType.DELETED_ONLY)]


def runs(experiment: str) -> list[RunRecord]:
    """Return the trained runs of an experiment, newest first; none if it has no runs yet. Raises StoreError."""
    return [run for run in _all_runs(experiment) if names.KIND not in run.tags]


def parents(experiment: str) -> list[RunRecord]:
    """Return the parent runs of an experiment, newest first. Raises StoreError."""
    return [run for run in _all_runs(experiment) if names.KIND in run.tags]


def run(run_id: str) -> RunRecord:
    """Return one run. Raises StoreError if the store has none with this id."""
    with Client(f"run {run_id} cannot be read") as client:
        found = client.get_run(store_id(run_id))
        return _record(found, client.get_experiment(found.info.experiment_id).name)


def own_id(run: Run) -> str:
    """Return the id that a run had where it was trained; `store_id` is the inverse."""
    return str(run.data.tags.get(names.RUN_ID, run.info.run_id))


def store_id(run_id: str) -> str:
    """Return the id that the store has given a run: not the run's own if it was imported. Raises StoreError."""
    return _store_id(uri(), run_id)


@cache
def _store_id(_uri: str, run_id: str) -> str:
    with Client(f"run {run_id} cannot be read") as client:
        experiments = [each.experiment_id for each in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`{names.RUN_ID}` = '{run_id}'", ViewType.ALL)
        active_first = sorted(found, key=lambda run: str(run.info.lifecycle_stage))  # it may have been imported again
        return str(active_first[0].info.run_id) if found else run_id


def forget_ids() -> None:
    """Look the ids of runs up again: runs were imported."""
    _store_id.cache_clear()


def lifecycle(run_id: str) -> str:
    """Return `active`, `deleted`, or `unknown` if the store has no such run, or not all of it. Raises StoreError."""
    with Client(f"run {run_id} cannot be looked for") as client:
        try:
            found = client.get_run(store_id(run_id))
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                return "unknown"
            raise
        return "unknown" if names.INCOMPLETE in found.data.tags else str(found.info.lifecycle_stage)


def search(client: MlflowClient, experiment_id: str, where: str = "", view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    """Return the runs of an MLflow experiment that meet `where`, parents too, newest first. Raises MlflowException."""
    found: list[Run] = []
    token: str | None = ""
    while token is not None:
        page = client.search_runs([experiment_id], where, view, page_token=token or None, max_results=500)
        found += page
        token = page.token or None
    return found


def history(run_id: str, metric: str) -> dict[int, float]:
    """Return a metric's value at each epoch. Raises StoreError."""
    with Client(f"metric {metric!r} of run {run_id} cannot be read") as client:
        return {point.step: point.value for point in layout.points(client, store_id(run_id), metric)}


def last_sign(run_id: str) -> float:
    """Return when the store last heard of a run: its start or its last epoch, seconds since 1970. Raises StoreError."""
    with Client(f"run {run_id} cannot be read") as client:
        run = client.get_run(store_id(run_id))
        points = layout.points(client, run.info.run_id, names.COST)
        return float(max([run.info.start_time, *(point.timestamp for point in points)])) / 1000


def forget(run_id: str) -> None:
    """Delete a run. MLflow keeps its record as deleted. Raises StoreError."""
    with Client(f"run {run_id} cannot be deleted") as client:
        client.delete_run(store_id(run_id))


def end_vanished(run_id: str, reason: str) -> None:
    """Set a run whose process is gone, and that nobody resumes, to KILLED. Raises StoreError."""
    with Client(f"run {run_id} cannot be ended") as client:
        tags = [RunTag(names.ERROR, reason), RunTag(names.CAUSE, names.VANISHED)]
        client.log_batch(store_id(run_id), tags=tags)
        client.set_terminated(store_id(run_id), "KILLED")


def last_image(run_id: str, key: str) -> Image.Image | None:
    """Return a run's newest picture of this name, or None if it has none. Raises StoreError."""
    folders = ("images", names.BY_EPOCH)  # an earlier version had a gallery of all epochs
    with Client(f"the images of run {run_id} cannot be read") as client, tempfile.TemporaryDirectory() as scratch:
        found = [item.path for each in folders for item in client.list_artifacts(store_id(run_id), each)]
        pattern = rf"(?:images/{key}\W(?:step\W)?|{names.BY_EPOCH}/{key}-)(\d+)\b.*\.png"
        epochs = {int(match[1]): path for path in found if (match := re.fullmatch(pattern, path))}
        if not epochs:
            return None
        image = Image.open(client.download_artifacts(store_id(run_id), epochs[max(epochs)], scratch))
        image.load()
        return image


def _all_runs(experiment: str) -> list[RunRecord]:
    with Client(f"the runs of {experiment!r} cannot be read") as client:
        found = client.get_experiment_by_name(experiment)
        every = search(client, found.experiment_id) if found else []
        return [_record(run, experiment) for run in every if names.INCOMPLETE not in run.data.tags]


def _record(run: Run, experiment: str) -> RunRecord:
    info, (params, tags) = run.info, layout.unpack(run.data)
    started = datetime.fromtimestamp(info.start_time / 1000, UTC).isoformat(timespec="seconds")
    metrics = layout.metrics(run.data)
    return RunRecord(own_id(run), experiment, info.status, metrics, params, tags, started, info.start_time)
