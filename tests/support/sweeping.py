"""A small sweep in this process, and what two stores say of it."""

from pathlib import Path
from typing import Any

from mlflow.entities import Run

from repro import cli, names
from repro.spec import Choice, LogUniform, Space
from repro.sweep import status
from repro.tracking import reader
from support.process import client

SPACE: Space = {"optim.lr": LogUniform(1e-4, 1e-1), "model.latent": Choice(2, 3, 5)}
OPTIONS = ["--data", "stand-in", "--threads", "1", "--epochs", "2"]
SEARCHED = [word for key, each in SPACE.items() for word in ("--space", f"{key}={each}")]
COMMAND = ["sweep", "small.py", *OPTIONS, *SEARCHED]


def sweep(*options: str) -> int:
    return cli.main([*COMMAND, *options])


def trials(name: str = "small") -> list[dict[str, Any]]:
    return status.trials("", 15, name)


def tried(name: str = "small") -> list[tuple[Any, ...]]:
    """What a study has tried, in order, and what came of it."""
    keys = ("trial", "state", "value", *SPACE, "epochs")
    return [tuple(row[key] for key in keys) for row in trials(name)]


def runs_of(row: dict[str, Any], folder: Path) -> list[Run]:
    return [client(folder).get_run(run_id) for run_id in row["runs"].split(", ")]


def curve(run: Run, folder: Path) -> list[float]:
    """The held-out cost of each epoch, each of which is logged once."""
    points = client(folder).get_metric_history(run.info.run_id, names.HELDOUT_NEG_ELBO)
    assert sorted(point.step for point in points) == list(range(1, len(points) + 1))
    return [point.value for point in sorted(points, key=lambda point: point.step)]


def agree(folder: Path, name: str = "small") -> None:
    """The store of studies, what `--status` prints of it, and the tracking store say the same of every trial."""
    rows = trials(name)
    every = reader.runs("small sweeps")
    for row in rows:
        (run,) = runs_of(row, folder)
        assert run.data.tags[names.TRIAL_STATE] == row["state"]
        assert (run.data.tags[names.TRIAL], run.data.tags[names.SWEEP]) == (str(row["trial"]), name)
        assert run.data.tags.get(names.ERROR, "-") in (row["reason"], "-")
        assert run.info.status != "RUNNING"
        if row["state"] == "complete":
            assert (run.info.status, curve(run, folder)[-1]) == ("FINISHED", row["value"])
    live = [run for run in every if run.tags[names.SWEEP] == name and run.tags[names.TRIAL_STATE] != "abandoned"]
    assert sorted(run.run_id for run in live) == sorted(row["runs"] for row in rows), "each trial has one run"
