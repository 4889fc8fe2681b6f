"""Measurements of finished runs in the tracking store: CSV, pictures and metrics; and artifacts in general."""

import csv
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image
from sqlalchemy.exc import SQLAlchemyError

from repro import names
from repro.findings import Findings, Row
from repro.text import first_line
from repro.tracking.read import RunRecord
from repro.tracking.store import StoreError, open_client

FOLDER = "studies"
"""Artifact folder. The name is older than the word measurement, and kept so that older stores can be read."""
COLUMNS = ("quantity", "group", "x", "value", "standard_error", "unit")
LONGEST_TAG = 5000  # characters that the store takes


def log_measurement(record: RunRecord, name: str, findings: Findings, command: str) -> None:
    """Log a measurement to a finished run, and replace an earlier one of the same name. Raises StoreError.

    The rows become `studies/<name>.csv`, each picture `studies/<picture>.png`. Rows that `names.MEASUREMENT_ROWS` lists
    also become metrics of the run at its last epoch. The tag, with the date and the command, comes last: a measurement
    without it does not count.
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
        client.log_batch(record.run_id, metrics=metrics, tags=[RunTag(names.MEASUREMENT + name, tag)])
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise StoreError(f"measurement {name} of run {record.run_id} cannot be logged: {first_line(error)}") from None


def log_plots(run_id: str, plots: dict[str, bytes]) -> None:
    """Log PNG pictures to a run as `plots/<name>.png`, in place of any of the same name. Raises StoreError."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for name, png in plots.items():
                (Path(scratch) / f"{name}.png").write_bytes(png)
            open_client().log_artifacts(run_id, scratch, "plots")
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise StoreError(f"plots of run {run_id} cannot be logged: {first_line(error)}") from None


def read_measurement(run_id: str, name: str) -> list[Row] | None:
    """Return a measurement's rows, or None if the run has none of that name. Raises StoreError if they are damaged."""
    try:
        if names.MEASUREMENT + name not in open_client().get_run(run_id).data.tags:
            return None
        return _parse(artifact(run_id, f"{FOLDER}/{name}.csv").decode())
    except (MlflowException, StoreError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise StoreError(f"measurement {name} of run {run_id} is missing or damaged: {first_line(error)}") from None


def measurements_of(record: RunRecord) -> list[str]:
    """Return the names of the measurements that a run has, in alphabetical order."""
    return sorted(tag.removeprefix(names.MEASUREMENT) for tag in record.tags if tag.startswith(names.MEASUREMENT))


def artifacts(run_id: str) -> set[str]:
    """Return the paths of a run's artifacts outside folders. Raises StoreError."""
    try:
        return {item.path for item in open_client().list_artifacts(run_id)}
    except (MlflowException, OSError) as error:
        raise StoreError(f"the artifacts of run {run_id} cannot be listed: {first_line(error)}") from None


def artifact(run_id: str, path: str) -> bytes:
    """Return the content of a run's artifact file. Raises StoreError if there is none at that path."""
    client = open_client()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return Path(client.download_artifacts(run_id, path, scratch)).read_bytes()
    except (MlflowException, OSError) as error:
        raise StoreError(f"artifact {path} of run {run_id} cannot be read: {first_line(error)}") from None


def _headlines(rows: list[Row]) -> dict[str, float]:
    """Return the rows that are also metrics of the run."""
    found = {}
    for row in rows:
        metric = names.MEASUREMENT_ROWS.get((row.quantity, row.group))
        if metric is not None and row.x is None:
            found[metric] = row.value
    return found


def _write(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _text(getattr(row, key)) for key in COLUMNS} for row in rows)


def _text(value: str | float | None) -> str:
    """Return a number as text that parses to the same number."""
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
