"""Artifacts of runs in the tracking store, and measurements of finished runs: CSV, pictures and metrics."""

import io
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from mlflow.entities import RunTag

from repro import names
from repro.measurement import Measurement, Row
from repro.text import first_line
from repro.tracking import layout
from repro.tracking.reader import RunRecord, store_id
from repro.tracking.store import Client, StoreError, local_path
from repro.tracking.writer import as_image

FOLDER = "studies"
"""Artifact folder of measurements; all stores have it under this name."""
COLUMNS = ("quantity", "group", "x", "value", "standard_error", "unit")


def log_files(run_id: str, files: Mapping[str, bytes], folder: str = "") -> None:
    """Log files, by name, to a run, in place of any with the same name. Raises StoreError."""
    fault = f"{', '.join(files)} cannot be logged to run {run_id}"
    with Client(fault) as client, tempfile.TemporaryDirectory() as scratch:
        for name, content in files.items():
            (Path(scratch) / name).write_bytes(content)
        client.log_artifacts(store_id(run_id), scratch, folder or None)


def list_files(run_id: str) -> set[str]:
    """Return the paths of a run's artifacts outside folders. Raises StoreError."""
    with Client(f"the artifacts of run {run_id} cannot be listed") as client:
        return {item.path for item in client.list_artifacts(store_id(run_id))}


def place(run_id: str, path: str) -> str:
    """Return where a run's artifact file is: its path on this disk, or its address. Raises StoreError."""
    with Client(f"run {run_id} cannot be read") as client:
        uri = f"{client.get_run(store_id(run_id)).info.artifact_uri}/{path}"
    local = local_path(uri)
    if local is None:
        return uri
    return str(local.relative_to(Path.cwd()) if local.is_relative_to(Path.cwd()) else local)


def read_file(run_id: str, path: str) -> bytes:
    """Return the content of a run's artifact file. Raises StoreError if there is none at this path."""
    fault = f"artifact {path} of run {run_id} cannot be read"
    with Client(fault) as client, tempfile.TemporaryDirectory() as scratch:
        return Path(client.download_artifacts(store_id(run_id), path, scratch)).read_bytes()


def log_measurement(record: RunRecord, name: str, measurement: Measurement, command: str) -> None:
    """Log a measurement to a finished run, and replace an earlier one of the same name. Raises StoreError.

    The rows become `studies/<name>.csv`, each picture `studies/<picture>.png`. Rows that `names.MEASUREMENT_ROWS` lists
    also become metrics of the run at its last epoch. The tag, with the date and the command, comes last: a measurement
    without it does not count. A metric that has the same value already is not logged again.
    """
    table = pd.DataFrame([vars(row) for row in measurement.rows], columns=list(COLUMNS))
    files = {f"{name}.csv": table.to_csv(index=False, lineterminator="\n").encode()}
    for picture, pixels in measurement.pictures.items():
        png = io.BytesIO()
        as_image(pixels).save(png, "png")
        files[f"{picture}.png"] = png.getvalue()
    log_files(record.run_id, files, FOLDER)
    now, step = int(time.time() * 1000), int(record.params.get("training.epochs", 0))
    metrics = [
        layout.metric(names.MEASUREMENT_ROWS[row.quantity, row.group], row.value, now, step)
        for row in measurement.rows
        if (row.quantity, row.group) in names.MEASUREMENT_ROWS and row.x is None
    ]
    tag = f"{datetime.now(UTC).isoformat(timespec='seconds')} {command}"[: names.LONGEST_TAG]
    with Client(f"measurement {name} cannot be logged to run {record.run_id}") as client:
        before = client.get_run(store_id(record.run_id)).data.metrics
        metrics = [metric for metric in metrics if before.get(metric.key) != metric.value]
        client.log_batch(store_id(record.run_id), metrics=metrics, tags=[RunTag(names.MEASUREMENT + name, tag)])


def measurements_of(record: RunRecord) -> list[str]:
    """Return the names of the measurements that a run has, in alphabetical order."""
    return sorted(tag.removeprefix(names.MEASUREMENT) for tag in record.tags if tag.startswith(names.MEASUREMENT))


def read_measurement(run_id: str, name: str) -> list[Row] | None:
    """Return a measurement's rows, or None if the run has none of that name. Raises StoreError if they are damaged."""
    with Client(f"run {run_id} cannot be read") as client:
        if names.MEASUREMENT + name not in client.get_run(store_id(run_id)).data.tags:
            return None
    try:
        table = pd.read_csv(io.BytesIO(read_file(run_id, f"{FOLDER}/{name}.csv")), dtype=str, na_filter=False)
        if tuple(table.columns) != COLUMNS:
            raise ValueError(f"its columns are {list(table.columns)}, not {list(COLUMNS)}")
        return [
            Row(
                row.quantity,
                float(row.value),
                row.unit,
                row.group,
                x=float(row.x) if row.x else None,
                standard_error=float(row.standard_error) if row.standard_error else None,
            )
            for row in table.itertuples()
        ]
    except (StoreError, ValueError) as error:
        raise StoreError(f"measurement {name} of run {run_id} is missing or damaged: {first_line(error)}") from None
