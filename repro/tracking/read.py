"""Reading runs back from the tracking store."""

from dataclasses import dataclass

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from repro.tracking import names
from repro.tracking.store import StoreError, first_line, open_client


@dataclass(frozen=True)
class RunRecord:
    """A tracked run as analysis sees it: `metrics` holds last values, `params` and `tags` are as logged."""

    run_id: str
    experiment: str
    status: str
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]

    @property
    def comparable(self) -> bool:
        """Whether the run may be compared with the reported cost."""
        return self.status == "FINISHED" and self.tags.get(names.COMPARABLE) == "true"


def runs(experiment: str) -> list[RunRecord]:
    """All runs of an experiment, newest first; none if it has no runs yet. Raises StoreError."""
    client = open_client()
    try:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return []
        records: list[RunRecord] = []
        token: str | None = ""
        while token is not None:
            page = client.search_runs([found.experiment_id], page_token=token or None, max_results=500)
            records += [_record(run, experiment) for run in page]
            token = page.token or None
    except MlflowException as error:
        raise StoreError(f"the runs of {experiment!r} cannot be read: {first_line(error)}") from None
    return records


def history(run_id: str, metric: str) -> dict[int, float]:
    """A metric's value at each epoch. Raises StoreError."""
    try:
        return {point.step: point.value for point in open_client().get_metric_history(run_id, metric)}
    except MlflowException as error:
        raise StoreError(f"metric {metric!r} of run {run_id} cannot be read: {first_line(error)}") from None


def _record(run: Run, experiment: str) -> RunRecord:
    data, info = run.data, run.info
    return RunRecord(info.run_id, experiment, info.status, dict(data.metrics), dict(data.params), dict(data.tags))
