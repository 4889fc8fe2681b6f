"""A small sweep in this process, and what two stores say of it."""

from pathlib import Path
from typing import Any

from mlflow.entities import Run

from repro import cli, names
from repro.spec import Choice, LogUniform, Space
from repro.sweep.study import find
from repro.tracking import layout, reader
from support.process import client

SPACE: Space = {"optim.lr": LogUniform(1e-4, 1e-1), "model.latent": Choice(2, 3, 5)}
SEARCHED = [word for key, each in SPACE.items() for word in ("--space", f"{key}={each}")]
OPTIONS = ["--data", "stand-in", "--threads", "1", "--epochs", "2"]
COMMAND = ["sweep", "run", "small.py", *OPTIONS, *SEARCHED]


def sweep(*options: str) -> int:
    return cli.main([*COMMAND, *options])


def retrain(*options: str) -> int:
    return cli.main(["sweep", "retrain", "small.py", "--data", "stand-in", "--threads", "1", *options])


def trials(name: str = "small") -> list[dict[str, Any]]:
    return [dict(row) for row in find("", name).trial_rows()]


def live(name: str = "small") -> list[dict[str, Any]]:
    """The trials that were not retried under another number."""
    return [row for row in trials(name) if row["state"] != "retried"]


def tried(name: str = "small") -> list[tuple[Any, ...]]:
    """Return the settings, states and values of a study's trials, in order."""
    return [tuple(row[key] for key in ("state", "value", *SPACE, "epochs")) for row in live(name)]


def runs_of(row: dict[str, Any], folder: Path) -> list[Run]:
    return [client(folder).get_run(run_id) for run_id in row["runs"].split(", ")]


def curve(run: Run, folder: Path) -> list[float]:
    """The held-out cost of each epoch, each of which is logged once."""
    points = layout.points(client(folder), run.info.run_id, names.HELDOUT_NEG_ELBO)
    assert sorted(point.step for point in points) == list(range(1, len(points) + 1))
    return [point.value for point in sorted(points, key=lambda point: point.step)]


def agree(folder: Path, name: str = "small") -> None:
    """The store of studies, what `sweep status` prints of it, and the tracking store say the same of every trial."""
    rows = live(name)
    for row in rows:
        (run,) = runs_of(row, folder)
        assert run.data.tags[names.TRIAL_STATE] == row["state"]
        assert (run.data.tags[names.TRIAL], run.data.tags[names.SWEEP]) == (str(row["trial"]), name)
        assert run.info.run_name == f"trial {row['trial']}"
        assert run.data.tags.get(names.ERROR, "-") in (row["reason"], "-")
        assert run.info.status != "RUNNING"
        if row["state"] == "complete":
            assert (run.info.status, curve(run, folder)[-1]) == ("FINISHED", row["value"])
    tracked = [run for run in reader.runs("small sweeps") if run.tags[names.SWEEP] == name]
    kept = [run.run_id for run in tracked if run.tags[names.TRIAL_STATE] != "abandoned"]
    assert sorted(kept) == sorted(row["runs"] for row in rows), "each trial has one run"
