"""Reading runs back from the tracking store."""

import re
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from repro import names
from repro.tracking.store import Client


@dataclass(frozen=True)
class RunRecord:
    """A tracked run: `metrics` holds last values, `params` and `tags` are as logged."""

    run_id: str
    experiment: str
    status: str
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]
    started: str  # UTC, ISO 8601 to the second

    @property
    def comparable(self) -> bool:
        """Whether the run may be compared with the reported cost."""
        return self.status == "FINISHED" and self.tags.get(names.COMPARABLE) == "true"


def runs(experiment: str) -> list[RunRecord]:
    """Return the trained runs of an experiment, newest first; none if it has no runs yet. Raises StoreError."""
    return [run for run in _all_runs(experiment) if names.KIND not in run.tags]


def parents(experiment: str) -> list[RunRecord]:
    """Return the parent runs of an experiment, newest first. Raises StoreError."""
    return [run for run in _all_runs(experiment) if names.KIND in run.tags]


def run(run_id: str) -> RunRecord:
    """Return one run. Raises StoreError if the store has none with this id."""
    with Client(f"run {run_id} cannot be read") as client:
        found = client.get_run(run_id)
        return _record(found, client.get_experiment(found.info.experiment_id).name)


def search(client: MlflowClient, experiment_id: str, where: str = "") -> list[Run]:
    """Return the runs of an MLflow experiment that meet `where`, parents too, newest first. Raises MlflowException."""
    found: list[Run] = []
    token: str | None = ""
    while token is not None:
        page = client.search_runs([experiment_id], where, page_token=token or None, max_results=500)
        found += page
        token = page.token or None
    return found


def history(run_id: str, metric: str) -> dict[int, float]:
    """Return a metric's value at each epoch. Raises StoreError."""
    with Client(f"metric {metric!r} of run {run_id} cannot be read") as client:
        return {point.step: point.value for point in client.get_metric_history(run_id, metric)}


def last_image(run_id: str, key: str) -> Image.Image | None:
    """Return the newest image of a run's stepped gallery, or None if it has none. Raises StoreError."""
    with Client(f"the images of run {run_id} cannot be read") as client, tempfile.TemporaryDirectory() as scratch:
        found = [item.path for item in client.list_artifacts(run_id, "images") if item.path.endswith(".png")]
        steps = {int(match[1]): path for path in found if (match := re.match(rf"images/{key}\W(?:step\W)?(\d+)", path))}
        if not steps:
            return None
        image = Image.open(client.download_artifacts(run_id, steps[max(steps)], scratch))
        image.load()
        return image


def _all_runs(experiment: str) -> list[RunRecord]:
    with Client(f"the runs of {experiment!r} cannot be read") as client:
        found = client.get_experiment_by_name(experiment)
        return [_record(run, experiment) for run in search(client, found.experiment_id)] if found else []


def _record(run: Run, experiment: str) -> RunRecord:
    data, info = run.data, run.info
    started = datetime.fromtimestamp(info.start_time / 1000, UTC).isoformat(timespec="seconds")
    return RunRecord(info.run_id, experiment, info.status, data.metrics, data.params, data.tags, started)
