"""A run's own folder on this disk: what was asked for, its checkpoints, its journal, and a lock while it is running."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from repro.errors import ReproError, UsageError
from repro.text import did_you_mean


class BusyError(ReproError):
    """Another process works on the run."""


@dataclass(frozen=True)
class Plan:
    """What a run was asked for, so that it can be taken up again, or run again to verify it."""

    run_id: str
    experiment: str  # a registered name, or the path of a user's file
    assignments: tuple[str, ...]  # what --set and --epochs changed
    spec: dict[str, Any]
    seed: int
    device: str
    threads: int
    data: Literal["auto", "real", "stand-in"]
    data_dir: str | None
    fingerprint: str  # of the data set
    precision: Literal["float32", "mixed"]
    engine: Literal["auto", "fast", "plain"]  # how steps are computed, as it was resolved when the run began
    products: str  # the engine's matrix products, "" where it has no choice
    trial: bool = False  # of a sweep

    def save(self, folder: Path) -> None:
        """Write `run.json`."""
        partial = folder / "run.json.part"
        partial.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        partial.replace(folder / "run.json")


def root() -> Path:
    """Where the folders of all runs are."""
    return Path("mlruns/runs").resolve()


def of(run_id: str) -> Path:
    """The folder of a run."""
    return root() / run_id


def checkpoints(run_id: str) -> Path:
    """Where a run's checkpoints are."""
    return of(run_id) / "checkpoints"


def epochs(run_id: str) -> int:
    """How many epochs of a run are in its newest checkpoint; 0 if it has none."""
    found = sorted(checkpoints(run_id).glob("epoch-*.safetensors")) if run_id else []
    return int(found[-1].stem.removeprefix("epoch-")) if found else 0


def every() -> list[str]:
    """Ids of the runs that have a folder here, newest first."""
    found = root().glob("*/run.json")
    return [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def find(text: str) -> Plan:
    """The plan of the run whose id is, or begins with, `text`. Raises UsageError if there is not exactly one."""
    ids = every()
    matching = [run_id for run_id in ids if text and run_id.startswith(text)]
    if len(matching) != 1:
        what = "begins like several runs" if matching else "is no run"
        raise UsageError(f"{text!r} {what} in {root()}{did_you_mean(text, ids)}; python -m repro compare lists them")
    return load(matching[0])


def load(run_id: str) -> Plan:
    """Read `run.json` of a run. Raises UsageError if it is damaged."""
    path = of(run_id) / "run.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["assignments"] = tuple(values["assignments"])
        return Plan(**{field.name: values[field.name] for field in fields(Plan) if field.name in values})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {error!r}") from None


def save_outcome(run_id: str, summary: dict[str, Any]) -> None:
    """Write `summary.json`."""
    (of(run_id) / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")


def outcome(run_id: str) -> dict[str, Any] | None:
    """What a finished run came to, as `run --summary` writes it; None if the run is not finished."""
    try:
        found: dict[str, Any] = json.loads((of(run_id) / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if found.get("status") == "FINISHED" else None


@contextmanager
def locked(run_id: str) -> Iterator[None]:
    """Hold a run's folder while it is worked on. Raises BusyError if another process does."""
    folder = of(run_id)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise BusyError(f"run {run_id} is being worked on by another process") from None
