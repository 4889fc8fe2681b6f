"""Reading runs back from the tracking store."""

import re
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from PIL import Image

from repro import names
from repro.text import first_line
from repro.tracking.store import StoreError, open_client


@dataclass(frozen=True)
class RunRecord:
    """A tracked run as analysis sees it: `metrics` holds last values, `params` and `tags` are as logged."""

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
    """All trained runs of an experiment, newest first; none if it has no runs yet. Raises StoreError.

    Parents, which hold several runs together, are left out.
    """
    client = open_client()
    try:
        found = client.get_experiment_by_name(experiment)
        every = search(client, found.experiment_id) if found else []
        return [_record(run, experiment) for run in every if names.KIND not in run.data.tags]
    except MlflowException as error:
        raise StoreError(f"the runs of {experiment!r} cannot be read: {first_line(error)}") from None


def parents(experiment: str) -> list[RunRecord]:
    """The runs of an experiment that hold several together, newest first. Raises StoreError."""
    client = open_client()
    try:
        found = client.get_experiment_by_name(experiment)
        every = search(client, found.experiment_id) if found else []
        return [_record(run, experiment) for run in every if names.KIND in run.data.tags]
    except MlflowException as error:
        raise StoreError(f"the runs of {experiment!r} cannot be read: {first_line(error)}") from None


def search(client: MlflowClient, experiment_id: str, where: str = "") -> list[Run]:
    """Every run of an MLflow experiment, parents too, that `where` holds for, newest first. Raises MlflowException."""
    found: list[Run] = []
    token: str | None = ""
    while token is not None:
        page = client.search_runs([experiment_id], where, page_token=token or None, max_results=500)
        found += page
        token = page.token or None
    return found


def run(run_id: str) -> RunRecord:
    """One run. Raises StoreError if the store has none of that id."""
    client = open_client()
    try:
        found = client.get_run(run_id)
        return _record(found, client.get_experiment(found.info.experiment_id).name)
    except MlflowException as error:
        raise StoreError(f"run {run_id} cannot be read: {first_line(error)}") from None


def history(run_id: str, metric: str) -> dict[int, float]:
    """A metric's value at each epoch. Raises StoreError."""
    try:
        return {point.step: point.value for point in open_client().get_metric_history(run_id, metric)}
    except MlflowException as error:
        raise StoreError(f"metric {metric!r} of run {run_id} cannot be read: {first_line(error)}") from None


def last_image(run_id: str, key: str) -> Image.Image | None:
    """The newest image of a run's stepped gallery, or None if it has none. Raises StoreError."""
    client = open_client()
    try:
        found = [item.path for item in client.list_artifacts(run_id, "images") if item.path.endswith(".png")]
        steps = {int(match[1]): path for path in found if (match := re.match(rf"images/{key}\W(?:step\W)?(\d+)", path))}
        if not steps:
            return None
        with tempfile.TemporaryDirectory() as scratch:
            image = Image.open(client.download_artifacts(run_id, steps[max(steps)], scratch))
            image.load()
            return image
    except (MlflowException, OSError) as error:
        raise StoreError(f"the images of run {run_id} cannot be read: {first_line(error)}") from None


def _record(run: Run, experiment: str) -> RunRecord:
    data, info = run.data, run.info
    started = datetime.fromtimestamp(info.start_time / 1000, UTC).isoformat(timespec="seconds")
    return RunRecord(info.run_id, experiment, info.status, data.metrics, data.params, data.tags, started)
