"""What a finished run has left in its store and its directory."""

from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from repro import names
from repro.tracking import layout
from support.process import client, repro

TRAINED = (names.COST, names.RECONSTRUCTION, names.KL, names.HELDOUT_NEG_ELBO)
STAND_IN = ["--data", "stand-in", "--threads", "1"]


def recorded(store: MlflowClient, run_id: str) -> dict[str, Any]:
    """All that must be the same after a crash: every epoch's metrics, the pictures, the final weights, the end."""
    run = store.get_run(run_id)
    pictures = [item.path for item in store.list_artifacts(run_id, "images") if item.path.endswith(".png")]
    return {
        "status": run.info.status,
        "weights": run.data.tags[names.WEIGHTS_SHA256],
        "test": [
            layout.metrics(run.data)[name] for name in (names.TEST_NEG_ELBO, names.TEST_RECONSTRUCTION, names.TEST_KL)
        ],
        "pictures": sorted(tuple(path.split("+")[:3:2]) for path in pictures),
        "by epoch": sorted(item.path for item in store.list_artifacts(run_id, names.BY_EPOCH)),
        "metrics": {
            name: [(point.step, point.value) for point in layout.points(store, run_id, name)] for name in TRAINED
        },
    }


def run_ids(folder: Path) -> list[str]:
    return [path.name for path in (folder / "mlruns" / "runs").iterdir()]


def only_run(folder: Path) -> str:
    (run_id,) = run_ids(folder)
    return run_id


def finished(folder: Path, *options: str) -> dict[str, Any]:
    """A run left alone."""
    folder.mkdir()
    process = repro("run", "mnist_fc", *options, cwd=folder)
    assert process.returncode == 0, process.stderr
    return recorded(client(folder), only_run(folder))
