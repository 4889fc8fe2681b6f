"""A command that is killed at a chosen change of a file, and given again, ends as one left alone.

By default some instants are tried, spread over the shorter commands. With REPRO_KILL_SWEEP=all each of them is tried of
every command, which takes hours, and with REPRO_KILL_SWEEP=20 so many of each.
"""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import SMALL
from support import killing
from support.killing import ForkServer

from repro import names

pytestmark = [pytest.mark.slow, pytest.mark.timeout(24 * 3600)]
CHOSEN = os.environ.get("REPRO_KILL_SWEEP", "")  # read here, for tests run without the user's settings
STAND_IN = ["--data", "stand-in", "--threads", "1"]
RUN = ["run", "small.py", *STAND_IN, "--epochs", "2"]
SEARCH = ["sweep", "run", "small.py", *STAND_IN, "--space", "optim.lr=1e-4,1e-3", "--sampler", "grid", "--epochs", "1"]
EVALUATE = ["evaluate", "RUN", "--samples", "2", "--draws", "2", "--images", "20"]


class Phase(NamedTuple):
    """A command, what is there before it, and how many instants are tried by default; none of the slow ones.

    RUN in the command stands for the run that is there. `alone`: every other time only the process that makes the
    change is killed, which may be a child, and not all.
    """

    command: list[str]
    before: str
    instants: int
    alone: bool = False


PHASES = {
    "run, fresh store": Phase([*RUN, "--resume"], "nothing", 3),
    "run": Phase([*RUN, "--resume"], "empty", 8),
    "run --seeds": Phase([*RUN, "--seeds", "0-1", "--jobs", "1"], "empty", 0),
    "run --seeds --jobs 2": Phase([*RUN, "--seeds", "0-1", "--jobs", "2"], "empty", 0, alone=True),
    "sweep run": Phase([*SEARCH, "--trials", "2", "--heartbeat", "1"], "empty", 0),
    "evaluate": Phase(EVALUATE, "run", 5),
    "report --update": Phase(["report", "--update"], "real", 0),
    "export": Phase(["export", "./small.py", "--out", "bundle.zip"], "run", 3),
    "import": Phase(["import", "bundle.zip"], "bundle", 6),
}


class Stage:
    """The folder of the fork server, set up as it was before a command."""

    def __init__(self, server: ForkServer, templates: Path, empty_store: Path) -> None:
        self.server, self.folder, self._templates, self._empty_store = server, server.folder, templates, empty_store
        self.run_id = ""

    def set_up(self, name: str) -> None:
        """Make the folder what this name says."""
        template = self._templates / name
        if not template.exists():
            getattr(self, f"_{name}")()
            shutil.copytree(self.folder, template)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(template, self.folder)
        runs = list(self.folder.glob("mlruns/runs/*"))
        self.run_id = runs[0].name if runs else ""

    def run(self, *arguments: str, kill_at: int = 0) -> killing.Ended:
        given = [self.run_id if each == "RUN" else each for each in arguments]
        return self.server.run(*given, kill_at=kill_at)

    def done(self, *arguments: str) -> None:
        ended = self.run(*arguments)
        assert ended.code == 0, ended.printed

    def _nothing(self) -> None:
        killing.empty(self.folder)
        (self.folder / "small.py").write_text(SMALL, encoding="utf-8")

    def _empty(self) -> None:
        killing.with_store(self.folder, SMALL, self._empty_store)

    def _run(self) -> None:
        self.set_up("empty")
        self.done(*RUN)

    def _bundle(self) -> None:
        self.set_up("run")
        self.done("export", "./small.py", "--out", "bundle.zip")
        bundle = (self.folder / "bundle.zip").read_bytes()
        self.set_up("empty")
        (self.folder / "bundle.zip").write_bytes(bundle)

    def _real(self) -> None:
        """A run of a published experiment that the store takes for one on the real data."""
        self.set_up("empty")
        self.done("run", "mnist_fc", *STAND_IN, "--epochs", "1")
        (folder,) = self.folder.glob("mlruns/runs/*")
        self.done("evaluate", folder.name, *EVALUATE[2:], "--measure", "latents")
        with closing(sqlite3.connect(self.folder / "mlruns" / "mlflow.db")) as store:
            for key, value in ((names.DATA_STATUS, "canonical"), (names.COMPARABLE, "true")):
                store.execute("UPDATE tags SET value = ? WHERE key = ?", (value, key))
            store.commit()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, server: ForkServer, empty_store: Path) -> Stage:
    return Stage(server, tmp_path_factory.mktemp("templates"), empty_store)


def undisturbed(stage: Stage, phase: Phase) -> tuple[killing.Left, int]:
    stage.set_up(phase.before)
    ended = stage.run(*phase.command)
    assert ended.code == 0, ended.printed
    return killing.left(stage.folder), ended.instants


@pytest.mark.parametrize("name", PHASES)
def test_a_command_killed_at_any_instant_and_given_again_ends_as_one_left_alone(name: str, stage: Stage) -> None:
    phase = PHASES[name]
    if not (CHOSEN or phase.instants):
        pytest.skip("takes minutes: set REPRO_KILL_SWEEP")
    (first, _), (second, count) = undisturbed(stage, phase), undisturbed(stage, phase)
    expected = killing.agreed(first, second)
    tries = count if CHOSEN == "all" else min(count, int(CHOSEN or phase.instants))
    differing, tried = {}, 0
    for number in range(tries):
        instant = 1 + number * count // tries
        stage.set_up(phase.before)
        killed = stage.run(*phase.command, kill_at=-instant if phase.alone and number % 2 else instant)
        again = stage.run(*phase.command)
        killing.wait_for_silence(stage.folder)
        stage.done("runs")  # as any command does, it removes directories of runs that were never created
        tried += 1
        found = killing.differences(expected, killing.left(stage.folder))
        if again.code or found:
            differing[instant] = [killed.code, again.code, again.printed[-500:], *found]
            print(f"{name} at {instant} of {count}:", json.dumps(differing[instant], indent=1), flush=True)
    print(f"{name}: {tried} of {count} instants tried, {len(differing)} differences", flush=True)
    assert not differing, f"{len(differing)} of {tried} instants of {count}: {json.dumps(differing, indent=1)[:3000]}"
