"""Writing one run: first into its journal on this disk, then to the tracking store, as soon as that takes it."""

import json
import re
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy.exc import SQLAlchemyError
from torch import nn

from repro import names
from repro.data import Dataset as Images
from repro.names import Status
from repro.spec import Experiment
from repro.text import first_line
from repro.tracking.journal import Journal, Record
from repro.tracking.store import StoreError, experiment_id, open_client, shown_uri

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds between attempts while the store does not answer
LAST_ATTEMPTS = 3  # when the run has ended

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where a run begins in the store: the MLflow experiment, the run's name, and tags that it has from the first."""

    experiment: str
    run_name: str
    tags: dict[str, str] = field(default_factory=dict)


def start_run(place: Place) -> str:
    """Start a run and return its id. Raises StoreError."""
    client = open_client()
    try:
        run = client.create_run(experiment_id(client, place.experiment), tags=place.tags, run_name=place.run_name)
        return str(run.info.run_id)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise StoreError(f"no run can be started in {shown_uri()}: {first_line(error)}") from None


class RunWriter:
    """One run. What is logged is in its journal at once; a store that fails is tried again, and training goes on."""

    def __init__(self, run_id: str, journal: Journal, tell: Tell) -> None:
        """Write to a run that exists. `tell` is given a sentence whenever the store goes away or comes back."""
        self.run_id, self.journal, self._tell = run_id, journal, tell
        self._client: MlflowClient | None = None
        self._in_doubt = bool(journal.pending())  # the store may have the next record, though it is not marked so
        self._images: list[tuple[NDArray[np.uint8], str, int]] = []  # what the disk has not taken yet
        self._pause, self._next_try, self._away = FIRST_PAUSE, 0.0, ""

    def describe(self, spec: Experiment, settings: dict[str, str], tags: dict[str, str], dataset: Images) -> None:
        """Log what the run is: settings and spec as params, the spec as a file too, tags, and the data set as input."""
        (self.journal.files / names.SPEC_FILE).write_text(json.dumps(spec.to_dict(), indent=2), encoding="utf-8")
        entry = {
            "name": dataset.name,
            "digest": dataset.fingerprint[:32],
            "source": json.dumps({"origin": dataset.origin, "status": dataset.status}),
            "profile": json.dumps({"train": len(dataset.train), "test": len(dataset.test)}),
        }
        self._log({"kind": "about", "params": settings | spec.flat(), "tags": tags, "dataset": entry})
        self.file(names.SPEC_FILE)

    def metrics(self, values: dict[str, float], step: int, group: str) -> None:
        """Log metrics that belong together, which the store takes in one transaction."""
        self._keep_images()
        now = int(time.time() * 1000)
        self._log({"kind": "metrics", "values": values, "step": step, "group": group, "time": now})

    def tags(self, values: dict[str, str]) -> None:
        """Set tags."""
        self._log({"kind": "tags", "tags": values})

    def image(self, pixels: NDArray[np.uint8], key: str, step: int) -> None:
        """Log one image of a stepped gallery. uint8 [H, W, 1 or 3]. It waits in memory while the disk refuses it."""
        self._images.append((pixels, key, step))
        self._keep_images()

    def file(self, name: str, folder: str | None = None) -> None:
        """Log a file, or all of a directory, that lies in the journal's `files`, as artifacts."""
        self._log({"kind": "file", "file": name, "folder": folder})

    def model(self, module: nn.Module, example: NDArray[np.float32], name: str) -> None:
        """Log a module of one input and one output, exported, as an MLflow model. `example` is a batch of two."""
        import mlflow.pytorch  # noqa: PLC0415 - these take a second, which the first step should not wait for
        from mlflow.models import ModelSignature  # noqa: PLC0415
        from mlflow.types import Schema, TensorSpec  # noqa: PLC0415

        signature = ModelSignature(inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]))
        requirements = [f"torch=={torch.__version__.split('+')[0]}"]
        path = self.journal.files / name
        shutil.rmtree(path, ignore_errors=True)  # left by a run that was cut off here
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notices on formats that are not ours to choose
            mlflow.pytorch.save_model(
                module, str(path), signature=signature, input_example=example, pip_requirements=requirements
            )
        self.file(name, name)

    def status(self, status: Status | str) -> None:
        """Set the run's status: RUNNING again, or one that ends it."""
        self._log({"kind": "status", "status": status, "time": int(time.time() * 1000)})

    def deliver(self, attempts: int = 1) -> bool:
        """Send what the store has not got, in order; True if it has everything now."""
        for attempt in range(attempts):
            if attempt:
                time.sleep(1.0)
            try:
                self.journal.flush()
                for record in self.journal.pending():
                    self._send(record)
                    self.journal.mark_delivered()
            except (MlflowException, SQLAlchemyError, OSError, StoreError) as error:
                self._failed(error)
            else:
                self._back()
                return self.journal.unwritten == 0
        return False

    def undelivered(self) -> str:
        """What the store has not got and where it is kept, in a sentence."""
        count = len(self.journal.pending())
        kept = self.journal.folder if not self.journal.unwritten else "memory only, since the disk refuses it"
        there = f"{count} records are not in {shown_uri()} ({self._away})"
        return f"{there}; they are kept in {kept}; later: python -m repro sync"

    def _keep_images(self) -> None:
        while self._images:
            pixels, key, step = self._images[0]
            name = f"{key}-{step:06d}.png"
            try:
                Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(self.journal.files / name)
            except OSError:
                return
            self._images.pop(0)
            self._log({"kind": "image", "file": name, "key": key, "step": step})

    def _log(self, record: Record) -> None:
        self.journal.append(record)
        if time.monotonic() >= self._next_try:
            self.deliver()

    def _send(self, record: Record) -> None:
        self._client = self._client or open_client()
        if not (self._in_doubt and _is_there(self._client, self.run_id, record)):
            _SEND[record["kind"]](self._client, self.run_id, record, self.journal.files)
        self._in_doubt = False

    def _failed(self, error: Exception) -> None:
        self._in_doubt = True
        if not self._away:
            self._tell(f"the tracking store does not answer, training goes on: {first_line(error)}")
        self._away = first_line(error)
        self._next_try = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _back(self) -> None:
        if self._away:
            self._tell("the tracking store answers again; nothing is lost")
        self._away, self._pause, self._next_try = "", FIRST_PAUSE, 0.0


def _is_there(client: MlflowClient, run_id: str, record: Record) -> bool:
    """Whether the store has a record that would be doubled by sending it again."""
    if record["kind"] == "metrics":
        return all(
            any(point.step == record["step"] for point in client.get_metric_history(run_id, name))
            for name in record["values"]
        )
    if record["kind"] == "image":
        pattern = rf"images/{record['key']}\W(step\W)?{record['step']}\W.*\.png"
        return any(re.match(pattern, item.path) for item in client.list_artifacts(run_id, "images"))
    return False


def _send_about(client: MlflowClient, run_id: str, record: Record, _files: Path) -> None:
    params = [Param(key, value) for key, value in record["params"].items()]
    client.log_batch(run_id, params=params, tags=[RunTag(key, value) for key, value in record["tags"].items()])
    data = record["dataset"]
    dataset = Dataset(data["name"], data["digest"], "local", data["source"], profile=data["profile"])
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def _send_metrics(client: MlflowClient, run_id: str, record: Record, _files: Path) -> None:
    metrics = [Metric(key, value, record["time"], record["step"]) for key, value in record["values"].items()]
    client.log_batch(run_id, metrics=metrics)


def _send_tags(client: MlflowClient, run_id: str, record: Record, _files: Path) -> None:
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in record["tags"].items()])


def _send_image(client: MlflowClient, run_id: str, record: Record, files: Path) -> None:
    with Image.open(files / record["file"]) as image:
        client.log_image(run_id, image, key=record["key"], step=record["step"])


def _send_file(client: MlflowClient, run_id: str, record: Record, files: Path) -> None:
    path = files / record["file"]
    (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), record["folder"])


def _send_status(client: MlflowClient, run_id: str, record: Record, _files: Path) -> None:
    if record["status"] == "RUNNING":
        client.update_run(run_id, "RUNNING")
    else:
        client.set_terminated(run_id, record["status"], record["time"])


_SEND: dict[str, Callable[[MlflowClient, str, Record, Path], None]] = {
    "about": _send_about,
    "metrics": _send_metrics,
    "tags": _send_tags,
    "image": _send_image,
    "file": _send_file,
    "status": _send_status,
}


def sync(run_id: str, folder: Path, tell: Tell) -> bool:
    """Deliver what is left in a run's journal; True if the store has everything now."""
    journal = Journal(folder)
    left = len(journal.pending())
    if not left:
        return True
    writer = RunWriter(run_id, journal, nothing)
    done = writer.deliver(LAST_ATTEMPTS)
    tell(f"run {run_id}: {left} records delivered" if done else f"run {run_id}: {writer.undelivered()}")
    return done


def nothing(_: str) -> None:
    """Tell nobody."""
