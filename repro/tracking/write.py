"""Writing one run to the tracking store."""

import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import torch
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray
from torch import nn

from repro.data import Dataset as Images
from repro.outcome import Status
from repro.spec import Experiment
from repro.tracking import names
from repro.tracking.store import StoreError, experiment_id, first_line, open_client


class RunWriter:
    """One run in MLflow. Every method raises StoreError when the store does not take what it is given."""

    def __init__(self, experiment: str, run_name: str) -> None:
        """Start a run in the MLflow experiment of that name."""
        self._client = open_client()
        self.run_id: str = self._call(
            "create_run", experiment_id(self._client, experiment), run_name=run_name
        ).info.run_id

    def describe(self, spec: Experiment, settings: dict[str, str], tags: dict[str, str], dataset: Images) -> None:
        """Log what the run is: settings and spec as params, the spec as a file too, tags, and the data set as input."""
        params = settings | spec.flat()
        self._call(
            "log_batch",
            self.run_id,
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        self._call("log_dict", self.run_id, spec.to_dict(), names.SPEC_FILE)
        source = json.dumps({"origin": dataset.origin, "status": dataset.status})
        digest = dataset.fingerprint[:32]
        entry = Dataset(dataset.name, digest, "local", source, profile=json.dumps({"train": len(dataset.train)}))
        context = [InputTag("mlflow.data.context", "training")]
        self._call("log_inputs", self.run_id, [DatasetInput(entry, context)])

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log metrics of one epoch, in one transaction."""
        now = int(time.time() * 1000)
        self._call("log_batch", self.run_id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def tags(self, values: dict[str, str]) -> None:
        """Set tags."""
        self._call("log_batch", self.run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def image(self, pixels: NDArray[np.uint8], key: str, step: int) -> None:
        """Log one image of a stepped gallery. uint8 [H, W] or [H, W, 3]."""
        self._call("log_image", self.run_id, pixels if pixels.ndim == 3 else pixels[:, :, None], key=key, step=step)

    def file(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or all of a directory, as artifacts."""
        self._call("log_artifacts" if path.is_dir() else "log_artifact", self.run_id, str(path), folder)

    def model(self, module: nn.Module, example: NDArray[np.float32], folder: str) -> None:
        """Log a module of one input and one output, exported, as an MLflow model. `example` is a batch of two."""
        signature = ModelSignature(inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]))
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notices on formats that are not ours to choose
            path = Path(scratch) / folder
            mlflow.pytorch.save_model(
                module,
                str(path),
                signature=signature,
                input_example=example,
                pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
            )
            self.file(path, folder)

    def finish(self, status: Status) -> None:
        """Set the run's end and its status."""
        self._call("set_terminated", self.run_id, status)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(self._client, method)(*args, **kwargs)
        except (MlflowException, OSError) as error:
            raise StoreError(f"the tracking store refused {method}: {first_line(error)}") from None
