"""Commands that are killed at a chosen change of a file, and what they leave on the disk."""

import errno
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from repro import names
from support.process import environment

HERE = Path(__file__).parent
COMPILER = shutil.which("cc") or shutil.which("gcc")
NEEDS = "kills at a change of a file need Linux and a C compiler (cc), of which one is missing"
POSSIBLE = sys.platform == "linux" and COMPILER is not None

TABLES = {
    "status": "SELECT run_uuid, '', status || ' ' || lifecycle_stage FROM runs",
    "parameter": "SELECT run_uuid, key, value FROM params",
    "tag": f"""
        SELECT run_uuid, key, value FROM tags
        WHERE key NOT IN ('{names.RUN_ID}', '{names.BEGUN}', '{names.TRIAL}', '{names.BEST}trial')
            AND (key NOT IN ('{names.ERROR}', '{names.CAUSE}') OR value != '-')
    """,
    "metric": f"""
        SELECT run_uuid, key, step || ' ' || value FROM metrics m
        WHERE key != '{names.SHOWN_METRICS[names.BEST_HELDOUT]}'
            OR step = (SELECT max(step) FROM metrics n WHERE n.run_uuid = m.run_uuid AND n.key = m.key)
    """,  # each command logs the best trial when it begins and ends
    "model": "SELECT source_run_id, name, status FROM logged_models",
    "data": "SELECT i.destination_id, d.name, d.digest FROM inputs i JOIN datasets d ON i.source_id = d.dataset_uuid",
}
RUNS = f"""
    SELECT r.run_uuid, e.name || '/' || coalesce('trial of ' || p.value, r.name)
    FROM runs r JOIN experiments e USING (experiment_id)
    LEFT JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = '{names.TRIAL}'
    LEFT JOIN params p ON p.run_uuid = t.run_uuid AND p.key = 'optim.lr'
"""
OWN_IDS = f"SELECT run_uuid, value FROM tags WHERE key = '{names.RUN_ID}'"  # under which a run is kept here
GIVEN_UP = f"""
    SELECT run_uuid FROM tags WHERE key = '{names.TRIAL_STATE}' AND value = 'abandoned'
    UNION SELECT run_uuid FROM runs WHERE lifecycle_stage = 'deleted'
"""
ID = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}|(?<=%)\d{13}(?=%)|(?<=\+)\d{13}(?=\+)")  # also a time
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?")
TRIAL = re.compile(r"trial \d+")
COUNTS = re.compile(r"/delivered$| sweeps/.*/figures/")
"""Files that count what was done: a command that goes on does a little more than one left alone, and a trial that is
done again has another number."""
IGNORED = re.compile(r"\.(db|db-wal|db-shm|db-journal|lock)$|/lock$|__pycache__")


class Ended(NamedTuple):
    """How a command ended: its exit code, what it printed, and how many changes of files it has made."""

    code: int
    printed: str
    instants: int


class ForkServer:
    """Runs commands in a folder, each in a process that is there at once and has imported everything."""

    def __init__(self, process: subprocess.Popen[str], scratch: Path, folder: Path) -> None:
        self.folder, self._process, self._state = folder, process, scratch / "state"

    def run(self, *arguments: str, kill_at: int = 0, **how: Any) -> Ended:
        """Run a command; kill it and its children at a change of a file, or only who makes it if that is negative.

        With `failing`, so many changes from that one on fail in place of the kill, with the errno `error`; a full disk
        still lets files be removed and renamed. `without` are variables that the command does not have.
        """
        return self.run_together([arguments], limit=kill_at, **how)[0]

    def run_together(self, commands: Sequence[Sequence[str]], **how: Any) -> list[Ended]:
        """Run several commands at the same time."""
        request = {"limit": 0, "failing": 0, "error": errno.ENOSPC, "without": [], **how, "commands": commands}
        request |= {"folder": str(self.folder), "state": str(self._state)}
        assert self._process.stdin and self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return [Ended(**each) for each in json.loads(self._process.stdout.readline())]


@contextmanager
def fork_server(scratch: Path) -> Iterator[ForkServer]:
    """Start a server whose commands run in `scratch/folder`."""
    library, folder = scratch / "kill_at.so", scratch / "folder"
    assert COMPILER
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, HERE / "kill_at.c", "-ldl"], check=True)
    settings = {"LD_PRELOAD": str(library), "REPRO_CACHE_DIR": str(scratch / "cache"), "COLUMNS": "200"}
    settings |= {"PYTHONPATH": str(HERE), "TO_IMPORT": str(scratch / "to_import")}  # for multiprocessing's server
    process = subprocess.Popen(
        [sys.executable, HERE / "fork_server.py"],
        env=environment() | settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield ForkServer(process, scratch, folder)
    finally:
        process.kill()
        process.wait()


def empty(folder: Path) -> None:
    """Make the folder, with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def with_store(folder: Path, experiment: str, empty_store: Path) -> None:
    """Make the folder, with an experiment's file and an empty tracking store in it."""
    empty(folder)
    (folder / "small.py").write_text(experiment, encoding="utf-8")
    (folder / "mlruns").mkdir()
    shutil.copy(empty_store, folder / "mlruns" / "mlflow.db")


Left = dict[tuple[str, ...], list[str]]


def left(folder: Path) -> Left:
    """Return all that is in the store and in the folder, with names in place of ids; without what was given up."""
    found: Left = defaultdict(list)
    known: dict[str, str] = {}

    def named(text: Any) -> str:
        plain = re.sub("|".join(known) or "$^", lambda match: known[match[0]], str(text).replace(str(folder), "."))
        return TRIAL.sub("trial N", MOMENT.sub("MOMENT", ID.sub("ID", plain)))

    given_up: set[str] = set()
    for database in folder.glob("mlruns/mlflow.db"):
        with closing(sqlite3.connect(database)) as store:
            assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            known |= dict(store.execute(RUNS).fetchall())
            known |= {own: known[run_id] for run_id, own in store.execute(OWN_IDS)}
            given_up |= {run_id for (run_id,) in store.execute(GIVEN_UP)}
            for kind, query in TABLES.items():
                for run_id, key, value in store.execute(query).fetchall():
                    if run_id not in given_up or value.startswith("RUNNING "):
                        found[kind, named(run_id), key].append(named(value))
    for path in folder.rglob("*"):
        place = str(path.relative_to(folder))
        if path.is_file() and not IGNORED.search(place) and not given_up & set(path.parts):
            found["file", named(place)].append(hashlib.sha256(_content(path)).hexdigest()[:9])
    return {key: sorted(values) for key, values in found.items()}


def _content(path: Path) -> bytes:
    """Return what a file holds, of a bundle which files it has: their contents name the time of the export."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as bundle:
            return repr([(each.filename, each.file_size) for each in bundle.infolist()]).encode()
    return b"" if COUNTS.search(str(path)) else path.read_bytes()


def wait_for_silence(folder: Path) -> None:
    """Make all that is there two minutes older: no process has worked on it since."""
    for path in (folder, *folder.rglob("*")):
        then = path.stat().st_mtime - 120
        os.utime(path, (then, then))


def agreed(first: Left, second: Left) -> Left:
    """Return what two undisturbed commands leave; no value where they do not agree, as in times and processes."""
    assert first.keys() == second.keys(), sorted(first.keys() ^ second.keys())
    return {key: values if values == second[key] else [] for key, values in first.items()}


def differences(expected: Left, found: Left) -> list[str]:
    """Return what is not as expected, a line for each."""

    def lines() -> Iterable[str]:
        for key in sorted(expected.keys() | found.keys()):
            before, now = expected.get(key), found.get(key)
            if before is None or now is None:
                yield f"{'more' if before is None else 'lacks'} {key}: {now or before}"
            elif before and before != now:
                yield f"{key}: {now}, not {before}"

    return list(lines())
