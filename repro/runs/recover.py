"""What killed processes leave behind: runs that the tracking store shows as RUNNING though nobody trains them."""

import shutil
import time
from contextlib import suppress
from pathlib import Path

from repro import names
from repro.runs import ids, run_dir
from repro.tracking import reader
from repro.tracking.store import StoreError, shown_uri
from repro.tracking.writer import RunWriter, find_begun

SILENT = 60.0
"""Seconds since the last write to its directory, after which a run that no process holds has lost its process."""
IMPORTED = {"kind": "about"}
"""First record of a run that was taken from a bundle before it had finished. No process here has worked on it."""
REASON = "its process was killed, or its machine went down; resume it to go on"


def settle() -> None:
    """End the runs of this directory whose process is gone; remove directories of runs that were never created.

    If the store does not answer, a later command does it. Every command that opens the store calls this.
    """
    for folder in ids.root().glob("*/"):
        with suppress(run_dir.BusyError, OSError, StoreError):
            if not run_dir.has_ended(folder.name) and time.time() - _last_write(folder) >= SILENT:
                with run_dir.locked(folder.name):
                    _settle(folder)


def _settle(folder: Path) -> None:
    if not run_dir.exists(folder.name):
        if {path.name for path in folder.iterdir()} <= {"lock", "journal.jsonl", "files", "run.json.part"}:
            shutil.rmtree(folder)
        return
    if not (folder / "journal.jsonl").exists():  # a finished run that was imported
        return
    last_write = _last_write(folder)
    writer = RunWriter(folder.name, folder)
    records = writer.outbox.records
    statuses = [record["status"] for record in records if record["kind"] == "status"]
    if not records or records[0] == IMPORTED or (statuses and statuses[-1] != "RUNNING"):
        return
    if records[0]["kind"] == "begin" and not writer.outbox.has("about") and writer.outbox.pending():
        here = records[0]["store"] == shown_uri()
        if here and not find_begun(records[0]["experiment"], records[0]["begun"]):
            shutil.rmtree(folder)
            return
    if writer.deliver(1) and reader.run(folder.name).status == "RUNNING":
        writer.tags({names.ERROR: REASON, names.CAUSE: names.VANISHED})
        writer.status("KILLED", last_write)
        writer.deliver(1)


def _last_write(folder: Path) -> float:
    """Return when a process last wrote to a run's directory, seconds since 1970."""
    return max(path.stat().st_mtime for path in (folder, *folder.glob("*.json*"), *folder.glob("checkpoints")))
