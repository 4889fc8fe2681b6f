"""Three workers that share nothing but two servers; one is killed, both servers go away and come back."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import postgres
import pytest
from conftest import SMALL
from mlflow import MlflowClient
from mlflow.entities import Run
from process import environment, fetched, free_port, started, wait_for

from repro.tracking import names

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(postgres.missing()), reason=postgres.missing() or "-"),
]
EPOCHS, TRIALS = 60, 12
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
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


class Machine:
    """A directory of its own, in which the command runs."""

    def __init__(self, folder: Path, storage: str, tracking: str) -> None:
        self.folder, self.variables = folder, {"MLFLOW_TRACKING_URI": tracking, "REPRO_STORAGE": storage}
        folder.mkdir()
        (folder / "small.py").write_text(SMALL, encoding="utf-8")
        options = ["--data", "stand-in", "--threads", "1", "--epochs", str(EPOCHS), "--pruner", "none"]
        command = ["sweep", "small.py", *SPACE, *options, "--trials", str(TRIALS), "--heartbeat", "1"]
        self.process = started(*command, cwd=folder, **self.variables)

    @property
    def printed(self) -> str:
        return (self.folder / "output.txt").read_text()

    def status(self) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "repro", "sweep", "--status", "--study", "small", "--json"],
            cwd=self.folder,
            env=environment() | self.variables,
            capture_output=True,
            text=True,
            check=True,
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


def live_runs(tracking: str) -> dict[int, Run]:
    """The one run of each trial that no other took the place of."""
    client = MlflowClient(tracking_uri=tracking)
    experiment = client.get_experiment_by_name("small sweeps")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [run for run in runs if names.KIND in run.data.tags]
    assert parent.info.status == "FINISHED"
    trials = [run for run in runs if names.TRIAL in run.data.tags]
    assert all(run.data.tags[names.PARENT] == parent.info.run_id for run in trials)
    abandoned = [run for run in trials if run.data.tags[names.TRIAL_STATE] == "abandoned"]
    assert all(run.info.status == "KILLED" for run in abandoned)
    live = [run for run in trials if run not in abandoned]
    by_trial = {int(run.data.tags[names.TRIAL]): run for run in live}
    assert len(by_trial) == len(live), "no trial ran twice to completion"
    for run in live:
        for name in MEASURED:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
            assert sorted(steps) == list(range(1, EPOCHS + 1)), "each epoch once"
    return by_trial


def test_nothing_is_lost_and_nothing_done_twice(tmp_path: Path) -> None:
    port = free_port()
    tracking = f"http://127.0.0.1:{port}"
    with postgres.server() as database:
        for name in ("mlflow", "optuna"):
            database.create(name)
        with tracking_server(tmp_path, database.url("mlflow"), port):
            machines = [Machine(tmp_path / name, database.url("optuna"), tracking) for name in ("one", "two", "three")]
            victim = machines[1]
            wait_for("trial ", victim.folder, 300)
            time.sleep(1)  # in the midst of it
            victim.process.kill()
            victim.process.wait()
        time.sleep(2)  # with no server to track anything
        with tracking_server(tmp_path, database.url("mlflow"), port):
            wait_for("complete", machines[0].folder, 300)
            database.restart()
            for machine in (machines[0], machines[2]):
                assert machine.process.wait(400) == 0, machine.printed
            rows, runs = machines[0].status(), live_runs(tracking)
        begun = int(victim.printed.split("\ntrial ")[-1].split(":")[0])
        assert f"trial {begun}: complete" not in victim.printed
        others = "".join(machine.printed for machine in (machines[0], machines[2]))
        assert f"trial {begun}: complete" in others, "its trial was done by another"
        assert database.password not in others + victim.printed
    assert [row["trial"] for row in rows] == list(range(TRIALS))
    assert {row["state"] for row in rows} == {"complete"}
    assert sorted(runs) == list(range(TRIALS))
    for row in rows:
        run = runs[row["trial"]]
        assert row["runs"] == run.info.run_id
        assert run.info.status == "FINISHED"
        assert run.data.tags[names.TRIAL_STATE] == row["state"]
        assert run.data.metrics[names.HELDOUT_NEG_ELBO] == pytest.approx(row["value"])
        assert float(run.data.params["optim.lr"]) == row["optim.lr"]
        assert "Traceback" not in others
