"""Studies of finished runs in the tracking store: what was measured on a model, as CSV, pictures and metrics."""

import csv
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image
from sqlalchemy.exc import SQLAlchemyError

from repro.measure import Findings, Row
from repro.text import first_line
from repro.tracking import names
from repro.tracking.read import RunRecord
from repro.tracking.store import StoreError, open_client

FOLDER = "studies"
COLUMNS = ("quantity", "group", "x", "value", "standard_error", "unit")
LONGEST_TAG = 5000  # characters that the store takes


def log_study(record: RunRecord, name: str, findings: Findings, command: str) -> None:
    """Log a study to a finished run; what an earlier one of that name has left is replaced. Raises StoreError.

    The rows become `studies/<name>.csv`, each picture `studies/<picture>.png`, those rows that the glossary has
    metrics of the run at its last epoch. The tag, with the date and the command, comes last: without it there is no
    study.
    """
    try:
        client = open_client()
        with tempfile.TemporaryDirectory() as scratch:
            _write(findings.rows, Path(scratch) / f"{name}.csv")
            for picture, pixels in findings.pictures.items():
                image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
                image.save(Path(scratch) / f"{picture}.png")
            client.log_artifacts(record.run_id, scratch, FOLDER)
        now, step = int(time.time() * 1000), int(record.params.get("training.epochs", 0))
        metrics = [Metric(metric, value, now, step) for metric, value in _headlines(findings.rows).items()]
        tag = f"{datetime.now(UTC).isoformat(timespec='seconds')} {command}"[:LONGEST_TAG]
        client.log_batch(record.run_id, metrics=metrics, tags=[RunTag(names.STUDY + name, tag)])
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise StoreError(f"study {name} of run {record.run_id} cannot be logged: {first_line(error)}") from None


def log_plots(run_id: str, plots: dict[str, bytes]) -> None:
    """Log pictures, PNG by name, as `plots/<name>.png` to a run, which may have older ones. Raises StoreError."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for name, png in plots.items():
                (Path(scratch) / f"{name}.png").write_bytes(png)
            open_client().log_artifacts(run_id, scratch, "plots")
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise StoreError(f"plots of run {run_id} cannot be logged: {first_line(error)}") from None


def read_study(run_id: str, name: str) -> list[Row] | None:
    """The rows of a study, or None if the run has none of that name. Raises StoreError if they cannot be read."""
    try:
        if names.STUDY + name not in open_client().get_run(run_id).data.tags:
            return None
        return _parse(artifact(run_id, f"{FOLDER}/{name}.csv").decode())
    except (MlflowException, StoreError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise StoreError(f"study {name} of run {run_id} is missing or damaged: {first_line(error)}") from None


def studies_of(record: RunRecord) -> list[str]:
    """The names of the studies that a run has, in alphabetical order."""
    return sorted(tag.removeprefix(names.STUDY) for tag in record.tags if tag.startswith(names.STUDY))


def artifacts(run_id: str) -> set[str]:
    """The paths of a run's artifacts that are in no folder. Raises StoreError."""
    try:
        return {item.path for item in open_client().list_artifacts(run_id)}
    except (MlflowException, OSError) as error:
        raise StoreError(f"the artifacts of run {run_id} cannot be listed: {first_line(error)}") from None


def artifact(run_id: str, path: str) -> bytes:
    """What an artifact file of a run holds. Raises StoreError if the run has none there."""
    client = open_client()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return Path(client.download_artifacts(run_id, path, scratch)).read_bytes()
    except (MlflowException, OSError) as error:
        raise StoreError(f"artifact {path} of run {run_id} cannot be read: {first_line(error)}") from None


def _headlines(rows: list[Row]) -> dict[str, float]:
    """The rows that are metrics of the run too."""
    found = {}
    for row in rows:
        metric = names.STUDY_ROWS.get((row.quantity, row.group))
        if metric is not None and row.x is None:
            found[metric] = row.value
    return found


def _write(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _text(getattr(row, key)) for key in COLUMNS} for row in rows)


def _text(value: str | float | None) -> str:
    """A number as text that gives back the same number."""
    return "" if value is None else value if isinstance(value, str) else repr(float(value))


def _parse(text: str) -> list[Row]:
    """The inverse of `_write`. Raises ValueError, KeyError or TypeError for anything else."""
    reader = csv.DictReader(text.splitlines(), strict=True)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"its columns are {reader.fieldnames}, not {list(COLUMNS)}")
    return [
        Row(
            quantity=line["quantity"],
            value=float(line["value"]),
            unit=line["unit"],
            group=line["group"],
            x=float(line["x"]) if line["x"] else None,
            standard_error=float(line["standard_error"]) if line["standard_error"] else None,
        )
        for line in reader
    ]
