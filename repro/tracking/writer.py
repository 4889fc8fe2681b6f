"""Writing one run: into its outbox on this disk at once; from there a thread delivers it to the tracking store."""

import json
import re
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from repro import names
from repro.data import Dataset as Images
from repro.names import Status
from repro.spec import Experiment
from repro.tracking import layout
from repro.tracking.delivery import LAST_ATTEMPTS, Delivery
from repro.tracking.outbox import Outbox, Record
from repro.tracking.reader import forget_ids, search, store_id
from repro.tracking.store import Client, ask_again, experiment_id, local_path, open_client, shown_uri

GALLERY = "after_training"  # of charts; MLflow sorts them by name, and shows a gallery from step 0 on
LONGEST_NAME = 250  # of a run, in the store's column

Tell = Callable[[str], None]


def start_run(experiment: str, tags: dict[str, str], begun: str, time_ms: int | None = None) -> str:
    """Create a run in an MLflow experiment; its name is one of the tags. Returns its id. Raises StoreError.

    `begun` is the id of its directory until then, by which it can be found if this process dies; `time_ms` is when it
    began, milliseconds since 1970, if that was not now.
    """
    with Client(f"no run can be started in {shown_uri()}") as client:
        run = client.create_run(experiment_id(client, experiment), time_ms, tags | {names.BEGUN: begun})
        return str(run.info.run_id)


def run_name(seeds: str, changes: Sequence[str]) -> str:
    """Return the name of a run, such as `seed 3 · lr 3e-4`: it stands in MLflow under the name of its experiment."""
    return " · ".join([seeds, *changes])[:LONGEST_NAME]


def find_begun(experiment: str, begun: str) -> list[str]:
    """Return the ids of the runs that `start_run` has created for this directory: none or one. Raises StoreError."""
    with Client(f"the runs of {experiment!r} cannot be read") as client:
        found = client.get_experiment_by_name(experiment)
        runs = search(client, found.experiment_id, f"tags.`{names.BEGUN}` = '{begun}'") if found else []
        return [str(run.info.run_id) for run in runs]


class RunWriter:
    """One run. Each record is in its outbox at once, and is delivered after `start` or with `deliver`."""

    def __init__(self, run_id: str, folder: Path, tell: Tell = lambda _: None) -> None:
        """Write to a run with the outbox in its directory.

        `tell` is given a sentence when the store goes away and when it comes back.
        """
        self.run_id, self.outbox, self._tell = run_id, Outbox(folder), tell
        self._client: MlflowClient | None = None
        self._images: list[tuple[NDArray[np.uint8], str]] = []  # what the disk has not taken yet, with file names
        self._delivery = Delivery(self.outbox, self._send)

    def start(self) -> None:
        """Deliver in a thread from now on."""
        self._delivery.start()

    def begin(self, experiment: str, tags: dict[str, str]) -> None:
        """Note that the run is to be created in an MLflow experiment with these tags."""
        now = int(time.time() * 1000)
        record = {"kind": "begin", "experiment": experiment, "tags": tags, "time": now}
        self._log(record | {"begun": self.run_id, "store": shown_uri()})

    def begun(self) -> None:
        """Note that `start_run` has created it."""
        self.outbox.mark_delivered()

    def describe(self, spec: Experiment, computed: dict[str, str], tags: dict[str, str], dataset: Images) -> None:
        """Log how it is computed and its spec as params, the spec as a file too, tags, and the data set as input.

        It is one record, so that a run that is cut off has all of it or is described again.
        """
        described = {
            "name": dataset.name,
            "digest": dataset.fingerprint[:32],
            "source": json.dumps({"origin": dataset.origin, "status": dataset.status}),
            "profile": json.dumps({"train": len(dataset.train), "test": len(dataset.test)}),
        }
        params = computed | layout.settings(spec)
        self._log({"kind": "about", "params": params, "tags": tags, "dataset": described, "spec": spec.to_dict()})

    def complete(self, spec: Experiment) -> None:
        """Log the spec as a file if an earlier version was cut off before it did."""
        told = any(record["kind"] == "about" and "spec" in record for record in self.outbox.records)
        if not told and not self.outbox.has("file", file=names.SPEC_FILE):
            (self.outbox.files / names.SPEC_FILE).write_text(json.dumps(spec.to_dict(), indent=2), encoding="utf-8")
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

    def status(self, status: Status | str, at: float | None = None) -> None:
        """Set the run's status: RUNNING again, or one that ended it, now or `at`, seconds since 1970."""
        self._log({"kind": "status", "status": status, "time": int((at or time.time()) * 1000)})

    def deliver(self, attempts: int = LAST_ATTEMPTS) -> bool:
        """Send the pending records in order; return whether the store has everything now."""
        self.outbox.flush()
        done = self._delivery.attempt(attempts)
        self.outbox.tidy()
        return done and not self.outbox.unwritten

    def finish(self) -> bool:
        """End the delivery: wait a while for what is left; return whether the store has everything now."""
        self.outbox.flush()
        ask_again()
        done = self._delivery.finish()
        self._tell_news()
        self.outbox.tidy(all_written=True)
        return done and not self.outbox.unwritten

    def undelivered(self) -> str:
        """Return a sentence on what the store does not have and where it is kept."""
        count = len(self.outbox.pending())
        kept = self.outbox.folder if not self.outbox.unwritten else "memory only, since the disk refuses it"
        there = f"{count} records are not in {shown_uri()} ({self._delivery.fault()})"
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
        self.outbox.tidy()
        self._delivery.wake()
        self._tell_news()

    def _tell_news(self) -> None:
        for text in self._delivery.news():
            self._tell(text)

    def _send(self, record: Record, in_doubt: bool) -> None:
        """Send a record; if the store may have it already, look first."""
        client, self._client = self._client or open_client(), None
        if record["kind"] == "begin":
            _create(self.run_id, record)
        else:
            run_id = store_id(self.run_id)
            if in_doubt:
                _remove_partial_files(client, run_id)
            doubt = in_doubt or record["kind"] == "picture"  # drawn again by a run that was cut off at its end
            if not (doubt and _is_there(client, run_id, record)):
                _send(client, run_id, record, self.outbox.files)
        self._client = client  # after an error another one is opened, which asks first whether there is an answer


def _create(run_id: str, record: Record) -> None:
    """Create a run that was begun while the store did not answer, or take the one that it created without a word."""
    experiment, begun = record["experiment"], record["begun"]
    found = find_begun(experiment, begun) or [start_run(experiment, record["tags"], begun, record["time"])]
    if found[0] != run_id:
        with Client(f"run {run_id} cannot be given its id") as client:
            client.set_tag(found[0], names.RUN_ID, run_id)
        forget_ids()


def _remove_partial_files(client: MlflowClient, run_id: str) -> None:
    """Remove what MLflow leaves among a run's artifacts if its process is killed while it copies a file there."""
    folder = local_path(client.get_run(run_id).info.artifact_uri)
    for path in folder.rglob(".artifact.uploading.*") if folder else ():
        path.unlink(missing_ok=True)


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
            if "spec" in record:
                client.log_text(run_id, json.dumps(record["spec"], indent=2), names.SPEC_FILE)
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
