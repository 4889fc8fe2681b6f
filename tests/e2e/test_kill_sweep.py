"""A run that is killed at a chosen write, rename or removal of a file, and given again, ends as one left alone.

By default a few instants are tried, spread over the run; with REPRO_KILL_SWEEP=all each of them, which takes an hour.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType
from support.process import client, environment

from repro import names

INSTANTS = 8
RUN = ["run", "small.py", "--data", "stand-in", "--threads", "1", "--epochs", "2", "--resume"]
TIMES = {names.SHOWN_METRICS[name] for name in (names.IMAGES_PER_SECOND, names.EPOCH_SECONDS)}

CHILD = """
import os, signal, sys

limit, count, folder = int(sys.argv[1]), 0, os.getcwd()

def watch(event, arguments):
    global count
    changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "sqlite3.connect")
    written = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if not (changes or written) or not folder in os.path.abspath(str(arguments[0])):
        return
    count += 1
    if count == limit:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
sys.argv[:2] = ["repro"]
try:
    from repro.__main__ import main
    main()
finally:
    print("instants:", count, file=sys.stderr)
"""


def run(folder: Path, kill_at: int) -> subprocess.CompletedProcess[str]:
    """Run the command, and kill it at the instant of this number; 0 lets it end."""
    command = [sys.executable, "-c", CHILD, str(kill_at), *RUN]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def left(folder: Path) -> Any:
    """All that the run leaves in its folder and in the store, but for ids, times and processes."""
    store = client(folder)
    every = [each.experiment_id for each in store.search_experiments()]
    found = []
    for each in store.search_runs(every, run_view_type=ViewType.ALL):
        run_id, tags = each.info.run_id, each.data.tags
        histories = {
            name: [(point.step, point.value) for point in store.get_metric_history(run_id, name)]
            for name in each.data.metrics.keys() - TIMES
        }
        files = sorted(item.path for folder in ("", names.BY_EPOCH) for item in store.list_artifacts(run_id, folder))
        told = {key: tags.get(key) for key in (names.WEIGHTS_SHA256, names.COMPARABLE, names.RUN_NAME)}
        found.append([each.info.status, each.data.params, told, histories, files])
    directories = [sorted(path.name for path in place.iterdir()) for place in folder.glob("mlruns/runs/*")]
    return found, directories


@pytest.mark.slow
@pytest.mark.timeout(24 * 3600)
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_run_killed_at_any_instant_ends_as_one_left_alone(tmp_path: Path, small_file: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(small_file, alone)
    process = run(alone, 0)
    assert process.returncode == 0, process.stderr
    count, expected = int(process.stderr.rpartition("instants: ")[2]), left(alone)
    chosen = os.environ.get("REPRO_KILL_SWEEP", "")  # `all`, or the numbers of instants
    instants = map(int, chosen.split()) if chosen not in ("", "all") else range(1, count + 1)
    differing = []
    for instant in list(instants)[:: 1 if chosen else max(1, count // INSTANTS)]:
        folder = tmp_path / f"killed at {instant}"
        folder.mkdir()
        shutil.copy(small_file, folder)
        if run(folder, instant).returncode == 0:
            continue  # it had fewer instants this time
        again = run(folder, 0)
        if again.returncode or left(folder) != expected:
            differing.append((instant, again.stderr[-300:], left(folder)))
        else:
            shutil.rmtree(folder)
    assert not differing, f"{len(differing)} of the instants up to {count}: {differing[0]}, expected {expected}"
