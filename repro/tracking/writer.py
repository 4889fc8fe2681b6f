"""Writing one run: first into its outbox on this disk, then to the tracking store as soon as it answers."""

import json
import re
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy.exc import SQLAlchemyError
from torch import nn

from repro import names
from repro.data import Dataset as Images
from repro.names import Status
from repro.spec import Experiment
from repro.text import first_line
from repro.tracking import layout
from repro.tracking.outbox import Outbox, Record
from repro.tracking.reader import store_id
from repro.tracking.store import Client, StoreError, experiment_id, open_client, shown_uri

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds between attempts while the store does not answer
LAST_ATTEMPTS = 3  # when the run has ended
GALLERY = "after_training"  # of charts; MLflow sorts them by name, and shows a gallery from step 0 on
LONGEST_NAME = 250  # of a run, in the store's column

Tell = Callable[[str], None]


def start_run(experiment: str, tags: dict[str, str]) -> str:
    """Create a run in an MLflow experiment; its name is one of the tags. Returns its id. Raises StoreError."""
    with Client(f"no run can be started in {shown_uri()}") as client:
        run = client.create_run(experiment_id(client, experiment), tags=tags)
        return str(run.info.run_id)


def run_name(seeds: str, changes: Sequence[str]) -> str:
    """Return the name of a run, such as `seed 3 · lr 3e-4`: it stands in MLflow under the name of its experiment."""
    return " · ".join([seeds, *changes])[:LONGEST_NAME]


class RunWriter:
    """One run. Each record is in its outbox at once; sending is tried again while the store does not answer."""

    def __init__(self, run_id: str, folder: Path, tell: Tell = lambda _: None) -> None:
        """Write to a run that exists, with the outbox in its directory.

        `tell` is given a sentence when the store goes away and when it comes back.
        """
        self.run_id, self.outbox, self._tell = run_id, Outbox(folder), tell
        self._client: MlflowClient | None = None
        self._in_doubt = bool(self.outbox.pending())  # the store may have the next record, though it is not marked so
        self._images: list[tuple[NDArray[np.uint8], str]] = []  # what the disk has not taken yet, with file names
        self._pause, self._next_try, self._away = FIRST_PAUSE, 0.0, ""

    def describe(self, spec: Experiment, computed: dict[str, str], tags: dict[str, str], dataset: Images) -> None:
        """Log how it is computed and its spec as params, the spec as a file too, tags, and the data set as input."""
        (self.outbox.files / names.SPEC_FILE).write_text(json.dumps(spec.to_dict(), indent=2), encoding="utf-8")
        described = {
            "name": dataset.name,
            "digest": dataset.fingerprint[:32],
            "source": json.dumps({"origin": dataset.origin, "status": dataset.status}),
            "profile": json.dumps({"train": len(dataset.train), "test": len(dataset.test)}),
        }
        self._log({"kind": "about", "params": computed | layout.settings(spec), "tags": tags, "dataset": described})
        self.file(names.SPEC_FILE)

    def metrics(self, values: dict[str, float], step: int, group: str) -> None:
        """Log metrics that belong together, which the store takes in one transaction, unless they are there already."""
        self._keep_images()
        if self.outbox.has("metrics", step=step, group=group):
            return
        now = int(time.time() * 1000)
        self._log({"kind": "metrics", "values": values, "step": step, "group": group, "time": now})

    def tags(self, values: dict[str, str]) -> None:
        self._log({"kind": "tags", "tags": values})

    def image(self, pixels: NDArray[np.uint8], key: str, epoch: int) -> None:
        """Log an image of an epoch as a file of the artifact folder, unless it is there. uint8 [H, W, 1 or 3].

        It stays in memory while the disk refuses it.
        """
        name = f"{key}-{epoch:06d}.png"
        if not self.outbox.has("file", file=name):
            self._images.append((pixels, name))
        self._keep_images()

    def picture(self, name: str) -> None:
        """Log a picture in the outbox's `files` as an artifact, and among the charts of the run, where it is seen."""
        self._log({"kind": "picture", "file": name, "key": f"{GALLERY}/{Path(name).stem}", "step": 0})

    def file(self, name: str, folder: str | None = None) -> None:
        """Log a file, or all of a directory, in the outbox's `files` as artifacts."""
        self._log({"kind": "file", "file": name, "folder": folder})

    def model(self, module: nn.Module, example: NDArray[np.float32], name: str) -> None:
        """Log a module of one input and one output, exported, as an MLflow model. `example` is a batch of two."""
        import mlflow.pytorch  # noqa: PLC0415 - these take a second, which the first step should not wait for
        from mlflow.models import ModelSignature  # noqa: PLC0415
        from mlflow.types import Schema, TensorSpec  # noqa: PLC0415

        signature = ModelSignature(inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]))
        requirements = [f"torch=={torch.__version__.split('+')[0]}"]
        path = self.outbox.files / name
        shutil.rmtree(path, ignore_errors=True)  # left by a run that was cut off here
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow warns of its own file formats
            mlflow.pytorch.save_model(
                module, str(path), signature=signature, input_example=example, pip_requirements=requirements
            )
        self.file(name, name)

    def status(self, status: Status | str) -> None:
        """Set the run's status: RUNNING again, or one that ends it."""
        self._log({"kind": "status", "status": status, "time": int(time.time() * 1000)})

    def deliver(self, attempts: int = 1) -> bool:
        """Send the pending records in order; return whether the store has everything now."""
        for attempt in range(attempts):
            if attempt:
                time.sleep(1.0)
            try:
                self.outbox.flush()
                for record in self.outbox.pending():
                    self._client = self._client or open_client()
                    run_id = store_id(self.run_id)
                    doubt = self._in_doubt or record["kind"] == "picture"  # drawn again by a run cut off at its end
                    if not (doubt and _is_there(self._client, run_id, record)):
                        _send(self._client, run_id, record, self.outbox.files)
                    self._in_doubt = False
                    self.outbox.mark_delivered()
            except (MlflowException, SQLAlchemyError, OSError, StoreError) as error:
                self._failed(error)
            else:
                if self._away:
                    self._tell("the tracking store answers again; nothing is lost")
                self._away, self._pause, self._next_try = "", FIRST_PAUSE, 0.0
                return self.outbox.unwritten == 0
        return False

    def undelivered(self) -> str:
        """Return a sentence on what the store does not have and where it is kept."""
        count = len(self.outbox.pending())
        kept = self.outbox.folder if not self.outbox.unwritten else "memory only, since the disk refuses it"
        there = f"{count} records are not in {shown_uri()} ({self._away})"
        return f"{there}; they are kept in {kept}; later: python -m repro sync"

    def _keep_images(self) -> None:
        while self._images:
            pixels, name = self._images[0]
            try:
                as_image(pixels).save(self.outbox.files / name)
            except OSError:
                return
            self._images.pop(0)
            self.file(name, names.BY_EPOCH)

    def _log(self, record: Record) -> None:
        self.outbox.append(record)
        if time.monotonic() >= self._next_try:
            self.deliver()

    def _failed(self, error: Exception) -> None:
        self._in_doubt = True
        if not self._away:
            self._tell(f"the tracking store does not answer, training goes on: {first_line(error)}")
        self._away = first_line(error)
        self._next_try = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def _is_there(client: MlflowClient, run_id: str, record: Record) -> bool:
    """Whether the store has a record that would be there twice if it were sent again."""
    if record["kind"] == "metrics":
        return all(
            any(point.step == record["step"] for point in layout.points(client, run_id, name))
            for name in record["values"]
        )
    if record["kind"] in ("image", "picture"):
        pattern = rf"images/{record['key'].replace('/', '~')}\W(step\W)?{record['step']}\W.*\.png"
        return any(re.match(pattern, item.path) for item in client.list_artifacts(run_id, "images"))
    return False


def _send(client: MlflowClient, run_id: str, record: Record, files: Path) -> None:
    match record["kind"]:
        case "about":
            log_settings(client, run_id, record["params"], record["tags"])
            data = record["dataset"]
            dataset = Dataset(data["name"], data["digest"], "local", data["source"], profile=data["profile"])
            client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        case "metrics":
            metrics = [
                layout.metric(key, value, record["time"], record["step"]) for key, value in record["values"].items()
            ]
            client.log_batch(run_id, metrics=metrics)
        case "tags":
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in record["tags"].items()])
        case "image" | "picture":  # earlier versions logged the images of all epochs so
            if record["kind"] == "picture":
                client.log_artifact(run_id, str(files / record["file"]))
            with Image.open(files / record["file"]) as image:
                client.log_image(run_id, image, key=record["key"], step=record["step"])
        case "file":
            path = files / record["file"]
            (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), record["folder"])
        case "status":
            if record["status"] == "RUNNING":
                client.update_run(run_id, "RUNNING")
            else:
                client.set_terminated(run_id, record["status"], record["time"])


def log_settings(client: MlflowClient, run_id: str, params: dict[str, str], tags: dict[str, str]) -> None:
    """Log all params and tags of a run, as they are laid out in MLflow."""
    shown, packed = layout.pack(params, tags)
    client.log_batch(
        run_id,
        params=[Param(key, value) for key, value in shown.items()],
        tags=[RunTag(key, value) for key, value in packed.items()],
    )


def as_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return an image of Pillow's. uint8 [H, W, 1 or 3]."""
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)


def comparability(reasons: Sequence[str]) -> dict[str, str]:
    """Return the tags that say whether a cost may be compared with the reported one; `reasons` say why not."""
    return {names.NOT_COMPARABLE_BECAUSE: "; ".join(reasons) or "-", names.COMPARABLE: str(not reasons).lower()}


@dataclass(frozen=True)
class Note:
    """Markdown for a run's description in the MLflow UI, and tags beside it."""

    text: str
    tags: dict[str, str]


def annotate(notes: dict[str, Note]) -> int:
    """Give runs, by id, their notes; return how many of them were changed by it. Raises StoreError."""
    changed = 0
    with Client("runs cannot be given their notes") as client:
        for run_id, note in notes.items():
            run = client.get_run(store_id(run_id))
            tags = changed_tags(run, note.tags | {MLFLOW_RUN_NOTE: note.text})
            if tags:
                client.log_batch(run.info.run_id, tags=tags)
                changed += 1
    return changed


def changed_tags(run: Run, wanted: dict[str, str]) -> list[RunTag]:
    """Return those of the wanted tags that the run does not have yet."""
    return [RunTag(key, value) for key, value in wanted.items() if run.data.tags.get(key) != value]
