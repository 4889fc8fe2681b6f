"""Workers that share nothing but two servers; one is killed, both servers go away and come back."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from mlflow import MlflowClient
from mlflow.entities import Run
from support import postgres
from support.process import environment, fetched, free_port, started

from repro import names
from repro.tracking import layout
from repro.tracking.reader import own_id

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(postgres.missing()), reason=postgres.missing() or "-"),
]
EPOCHS = 20
SPACE = ["--space", "optim.lr=log:1e-4:1e-2", "--space", "model.latent=2,3,5"]
MEASURED = (names.COST, names.RECONSTRUCTION, names.KL, names.HELDOUT_NEG_ELBO)


@contextmanager
def tracking_server(folder: Path, database: str, port: int) -> Iterator[None]:
    """An MLflow server on a database, which keeps artifacts for its clients."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--port", str(port)]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.txt").open("a") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment() | quiet, stdout=output, stderr=output, start_new_session=True
        )
    try:
        assert fetched(f"http://127.0.0.1:{port}/health", 120) == "OK"
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Machine:
    """A directory of its own, in which the command runs until the block ends."""

    def __init__(self, folder: Path, storage: str, tracking: str, trials: int) -> None:
        self.folder, self.variables = folder, {"MLFLOW_TRACKING_URI": tracking, "REPRO_STORAGE": storage}
        folder.mkdir()
        (folder / "small.py").write_text(SMALL, encoding="utf-8")
        options = ["--data", "stand-in", "--threads", "1", "--epochs", str(EPOCHS)]
        command = ["sweep", "small.py", *SPACE, *options, "--trials", str(trials), "--heartbeat", "1"]
        self.process = started(*command, cwd=folder, **self.variables)

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def printed(self) -> str:
        return (self.folder / "output.txt").read_text()

    @property
    def runs(self) -> list[str]:
        return [path.parent.name for path in self.folder.glob("mlruns/runs/*/run.json")]

    @property
    def works(self) -> bool:
        return self.process.poll() is None

    def journals(self) -> Iterator[str]:
        for path in self.folder.glob("mlruns/runs/*/journal.jsonl"):
            with suppress(FileNotFoundError):  # a run that begins is renamed
                yield path.read_text()

    def status(self) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "repro", "sweep", "status", "small", "--json"],
            cwd=self.folder,
            env=environment() | self.variables,
            capture_output=True,
            text=True,
            check=True,
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


def wait_for_epoch(number: int, machines: Iterable[Machine], trials: int = 1) -> None:
    """Until so many runs of these machines have so many epochs."""
    end, machines = time.monotonic() + 300, list(machines)
    while sum(f'"step": {number},' in journal for each in machines for journal in each.journals()) < trials:
        assert time.monotonic() < end, [each.printed for each in machines]
        time.sleep(0.02)


class Tracked:
    """What the tracking server has of the study."""

    def __init__(self, tracking: str) -> None:
        self._client = MlflowClient(tracking_uri=tracking)
        experiment = self._client.get_experiment_by_name("small sweeps")
        assert experiment is not None
        runs = self._client.search_runs([experiment.experiment_id], max_results=1000)
        (self.parent,) = [run for run in runs if names.KIND in run.data.tags]
        trials = [run for run in runs if names.TRIAL in run.data.tags]
        assert len(trials) == len(runs) - 1
        assert {run.data.tags[names.PARENT] for run in trials} == {self.parent.info.run_id}
        self.abandoned = [run for run in trials if run.data.tags[names.TRIAL_STATE] == "abandoned"]
        self.live = [run for run in trials if run not in self.abandoned]

    def steps(self, run: Run) -> list[list[int]]:
        """Of each metric, the epochs that it was logged for, in their order."""
        histories = [layout.points(self._client, run.info.run_id, name) for name in MEASURED]
        return [sorted(point.step for point in history) for history in histories]


def agree(rows: list[dict[str, Any]], tracked: Tracked, trials: int) -> None:
    """`sweep status` and the tracking server say the same: each trial was done once, each epoch logged once."""
    assert [row["trial"] for row in rows] == list(range(len(rows)))
    done = [row for row in rows if row["state"] != "retried"]
    assert len(done) == trials
    assert sorted(int(run.data.tags[names.TRIAL]) for run in tracked.live) == [row["trial"] for row in done]
    runs = {own_id(run): run for run in tracked.live}
    for row in done:
        run = runs[row["runs"]]
        assert int(run.data.tags[names.TRIAL]) == row["trial"]
        assert (run.info.status, run.data.tags[names.TRIAL_STATE]) in {("FINISHED", "complete"), ("KILLED", "pruned")}
        assert run.data.tags[names.TRIAL_STATE] == row["state"]
        assert tracked.steps(run) == [list(range(1, row["epochs"] + 1))] * len(MEASURED)
        assert row["epochs"] == EPOCHS if row["state"] == "complete" else 0 < row["epochs"] < EPOCHS
        assert layout.metrics(run.data)[names.HELDOUT_NEG_ELBO] == pytest.approx(row["value"])
        assert float(run.data.params["optim.lr"]) == row["optim.lr"]
    assert {run.info.status for run in tracked.abandoned} == {"KILLED"}
    best = min((row for row in rows if row["state"] == "complete"), key=lambda row: row["value"])
    assert tracked.parent.info.status == "FINISHED"
    assert tracked.parent.data.tags[f"{names.BEST}trial"] == str(best["trial"])


@pytest.mark.parametrize(("workers", "outages"), [(3, 1), (8, 3)])
def test_nothing_is_lost_and_nothing_done_twice(tmp_path: Path, workers: int, outages: int) -> None:
    """The tracking server is killed so many times, and then the database server restarts."""
    port, trials = free_port(), 4 * workers
    tracking = f"http://127.0.0.1:{port}"
    with postgres.server() as database, ExitStack() as opened:
        for name in ("mlflow", "optuna"):
            database.create(name)
        with tracking_server(tmp_path, database.url("mlflow"), port):
            victim, *others = (
                opened.enter_context(Machine(tmp_path / f"machine {number}", database.url("optuna"), tracking, trials))
                for number in range(workers)
            )
            wait_for_epoch(3, [victim])
            victim.process.kill()
            victim.process.wait()
            wait_for_epoch(3, others)
        for outage in range(1, outages + 1):
            time.sleep(2)  # with no server to track anything
            assert all(each.works for each in others)
            with tracking_server(tmp_path, database.url("mlflow"), port):
                wait_for_epoch(3, others, trials=min(1 + outage * workers // 2, trials - workers))
                if outage == outages:
                    database.restart()
                    codes = [each.process.wait(600) for each in others]
                    assert codes == [0] * len(others), [each.printed for each in others]
                    rows, tracked = others[0].status(), Tracked(tracking)
                    agree(rows, tracked, trials)
    print(Counter(row["state"] for row in rows), f"{len(tracked.abandoned)} abandoned")  # shown by pytest -rP
    printed = "".join(each.printed for each in others)
    begun = int(victim.printed.split("\ntrial ")[-1].split(":")[0])
    assert rows[begun]["state"] == "retried"
    (again,) = [row for row in rows[begun + 1 :] if row["optim.lr"] == rows[begun]["optim.lr"] and row["value"]]
    assert f"trial {again['trial']}: {again['state']}" in printed, "another worker did the killed worker's trial"
    assert {own_id(run) for run in tracked.abandoned} >= set(victim.runs)
    assert not set(victim.runs) & {row["runs"] for row in rows if row["state"] != "retried"}
    assert "Traceback" not in printed
    assert database.password not in printed + victim.printed
    assert database.password not in str([run.to_dictionary() for run in (*tracked.live, tracked.parent)])
