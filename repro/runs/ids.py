"""The runs that have a directory on this disk, by id. It imports nothing heavy: shell completion reads them here."""

import json
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from repro.errors import UsageError
from repro.text import did_you_mean

LENGTH = 32  # of MLflow's run ids


def root() -> Path:
    """Return the folder of the runs' directories."""
    return Path("mlruns/runs").resolve()


def new() -> str:
    """Return an id for a run that the tracking store has not given one yet."""
    return uuid.uuid4().hex


def here() -> list[str]:
    """Return the ids of the runs that have a directory here, newest first."""
    written = {}
    for file in root().glob("*/run.json"):
        with suppress(FileNotFoundError):  # a run that begins is renamed, and one may be removed
            written[file.parent.name] = file.stat().st_mtime
    return sorted(written, key=written.__getitem__, reverse=True)


def find(text: str) -> str:
    """Return the id of the run that is, or begins with, `text`. Raises UsageError if there is not exactly one."""
    ids = here()
    matching = [run_id for run_id in ids if text and run_id.startswith(text)]
    if len(matching) != 1:
        what = f"begins like {several(matching)}" if matching else f"is no run{did_you_mean(text, ids)}"
        raise UsageError(f"{text!r} {what} in {root()}; python -m repro runs lists them")
    return matching[0]


def several(ids: Sequence[str]) -> str:
    """Return `3 runs (1a2b3c, 1a2b4d, ...)`."""
    return f"{len(ids)} runs ({', '.join(each[:12] for each in ids[:3])}{', ...' * (len(ids) > 3)})"


def find_tracked(text: str) -> str:
    """Return the same, or `text` if it is a whole id, whose run may be in the tracking store alone."""
    known = any(run_id.startswith(text) for run_id in here())
    return find(text) if known or len(text) != LENGTH else text


def completions(incomplete: str) -> list[tuple[str, str]]:
    """Return the ids that begin with `incomplete`, each with its experiment and seed. Damaged runs are left out."""
    found = []
    for run_id in here():
        if run_id.startswith(incomplete):
            try:
                values = json.loads((root() / run_id / "run.json").read_text(encoding="utf-8"))
                found.append((run_id, f"{values['experiment']} seed {values['seed']}"))
            except (OSError, ValueError, KeyError, TypeError):
                continue
    return found
