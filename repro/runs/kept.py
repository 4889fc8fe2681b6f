"""The runs of the tracking store as a list, what they take on this disk, and removing what is not needed.

Nothing of a run that is trained at the moment is removed, and nothing outside `mlruns`.
"""

import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from repro import names
from repro.errors import UsageError
from repro.runs import ids, run_dir
from repro.runs.claims import LEASE
from repro.text import did_you_mean
from repro.tracking import artifacts, reader, store
from repro.tracking.reader import RunRecord

ID = re.compile(rf"[0-9a-f]{{{ids.LENGTH}}}")
VANISHED = "running without a process: to be marked as killed"
STATES = ("finished", "failed", "killed", "running", "cut off")


@dataclass(frozen=True)
class KeptRun:
    """A run of the tracking store. `cost` is the last epoch's, nats per image; `bytes` is what it takes on this disk.

    `state` is one of STATES: a run that is cut off ended without a word, and can be resumed.
    """

    run_id: str
    experiment: str
    name: str
    state: str
    epoch: int
    epochs: int | None
    cost: float | None
    started: str  # UTC, ISO 8601 to the second
    age: float  # seconds
    bytes: int


@dataclass(frozen=True)
class Waste:
    """Folders of a run that may be deleted, and why.

    `whole` if the run itself is to be deleted in the store too, `ended` if it is only to be ended there.
    """

    run_id: str
    reason: str
    folders: tuple[Path, ...]
    bytes: int
    whole: bool = False
    ended: bool = False


def runs(experiments: Collection[str] = (), state: str = "", trials: bool = False) -> list[KeptRun]:
    """Return the runs of these experiments, by default of all, newest first; trials of sweeps only if asked for.

    Raises StoreError.
    """
    found = [_kept(record) for record in _records(trials) if not experiments or record.experiment in experiments]
    return sorted((run for run in found if state in ("", run.state)), key=lambda run: run.age)


def find(texts: Collection[str]) -> list[str]:
    """Return the ids of the runs that are, or begin with, these texts. Raises UsageError with every fault."""
    known = sorted({record.run_id for record in _records(trials=True)} | set(ids.here()))
    found, faults = [], []
    for text in texts:
        matching = [run_id for run_id in known if text and run_id.startswith(text)]
        if len(matching) == 1:
            found += matching
        else:
            what = f"begins like {ids.several(matching)}" if matching else f"is no run{did_you_mean(text, known)}"
            faults.append(f"{text!r} {what}; python -m repro runs lists them")
    if faults:
        raise UsageError(*faults)
    return list(dict.fromkeys(found))


def remove(run_id: str) -> None:
    """Delete a run in the tracking store, then its folders on this disk.

    Raises BusyError if it is trained at the moment, StoreError.
    """
    with _free(run_id):
        folders = _folders(run_id)
        if reader.lifecycle(run_id) == "active":
            reader.forget(run_id)
        _delete(folders)


def waste() -> list[Waste]:
    """Return what is not needed: checkpoints of finished runs, folders of deleted runs, abandoned trials.

    Also runs that the store shows as RUNNING, though they have no directory here and gave no sign of life for LEASE.
    A run that the tracking store has never heard of is left alone: it may be of another store. Raises StoreError.
    """
    if not store.exists():
        return []
    found = []
    for record in _records(trials=True):
        if record.tags.get(names.TRIAL_STATE) == "abandoned":
            found.append(_waste(record.run_id, "abandoned trial", _folders(record.run_id), whole=True))
        elif record.status == "FINISHED":
            copies = [folder / "artifacts" / "checkpoints" for folder in _artifacts(record.run_id)]
            if run_dir.exists(record.run_id) and run_dir.load_result(record.run_id):
                copies.append(run_dir.checkpoints(record.run_id))
            found.append(_waste(record.run_id, "checkpoints of a finished run", copies))
        elif record.status == "RUNNING" and _is_given_up(record.run_id):
            found.append(Waste(record.run_id, VANISHED, (), 0, ended=True))
    gone = [run_id for run_id in reader.deleted() if reader.lifecycle(run_id) == "deleted"]  # and not imported again
    found += [_waste(run_id, "deleted in MLflow", _folders(run_id)) for run_id in gone]
    return [each for each in found if each.folders or each.whole or each.ended]


def clean(what: Waste) -> None:
    """Delete it. Raises BusyError if the run is trained at the moment, StoreError."""
    if what.whole:
        remove(what.run_id)
    elif what.ended:
        reader.end_vanished(what.run_id, VANISHED)
    else:
        with _free(what.run_id):
            _delete(what.folders)


def size(run_id: str) -> int:
    """Return the bytes that a run takes on this disk."""
    return sum(map(_size, _folders(run_id)))


def _records(trials: bool) -> Iterator[RunRecord]:
    for experiment in reader.experiments() if store.exists() else ():
        for record in reader.runs(experiment):
            if trials or names.TRIAL not in record.tags:
                yield record


def _kept(record: RunRecord) -> KeptRun:
    epochs = record.params.get("training.epochs")
    return KeptRun(
        run_id=record.run_id,
        experiment=record.experiment,
        name=record.tags.get(names.RUN_NAME, ""),
        state=_state(record),
        epoch=int(epochs)
        if epochs and record.status == "FINISHED"
        else max(reader.history(record.run_id, names.COST), default=0),
        epochs=int(epochs) if epochs else None,
        cost=record.metrics.get(names.COST),
        started=record.started,
        age=time.time() - record.started_ms / 1000,
        bytes=size(record.run_id),
    )


def _state(record: RunRecord) -> str:
    if record.status != "RUNNING":
        return record.status.lower()
    try:
        with _free(record.run_id):
            return "cut off"
    except run_dir.BusyError:
        return "running"


@contextmanager
def _free(run_id: str) -> Iterator[None]:
    """Keep other processes from working on a run. Raises BusyError if one works on it, here or elsewhere."""
    if run_dir.exists(run_id):
        with run_dir.locked(run_id):
            yield
        return
    if reader.lifecycle(run_id) == "active" and reader.run(run_id).status == "RUNNING":
        silent = time.time() - reader.last_sign(run_id)
        if silent < LEASE:
            raise run_dir.BusyError(f"run {run_id} is trained elsewhere: a sign of life {silent:.0f} s ago")
    yield


def _is_given_up(run_id: str) -> bool:
    return not run_dir.exists(run_id) and time.time() - reader.last_sign(run_id) >= LEASE


def _folders(run_id: str) -> list[Path]:
    """Return the folders of a run on this disk: its directory and its artifacts."""
    here = run_dir.path(run_id)
    return [here] * (ID.fullmatch(run_id) is not None and _is_folder(here)) + _artifacts(run_id)


def _artifacts(run_id: str) -> list[Path]:
    """Return the folder of a run's artifacts, if it is in `mlruns` here."""
    if reader.lifecycle(run_id) == "unknown":
        return []
    place = Path(artifacts.place(run_id, "")).resolve().parent
    return [place] * (place.is_relative_to(store.folder() / "artifacts") and place.name == reader.store_id(run_id))


def _waste(run_id: str, reason: str, folders: list[Path], whole: bool = False) -> Waste:
    there = tuple(filter(_is_folder, folders))
    return Waste(run_id, reason, there, sum(map(_size, there)), whole)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _delete(folders: Collection[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
