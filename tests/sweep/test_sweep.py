"""Sweeps with a tiny network: what is drawn, kept, pruned, taken up again, retrained, and never looked at."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from support.process import client, started, wait_for
from support.run_here import in_epoch, interrupt
from support.sweeping import (
    COMMAND,
    OPTIONS,
    SEARCHED,
    SPACE,
    agree,
    curve,
    live,
    runs_of,
    sweep,
    trials,
    tried,
)  # fmt: skip

from repro import cli, names
from repro.runs import run_dir
from repro.sweep import space as spaces
from repro.sweep.storage import Storage
from repro.sweep.study import Study, all_studies
from repro.tracking import reader
from repro.tracking.store import experiment_id
from repro.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("small_file")


@pytest.fixture(autouse=True)
def _without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.sweep.run.plots", lambda _: {"history.png": b"a picture"})


def parent_of(folder: Path) -> Any:
    return client(folder).get_run(Study(Storage(""), "small").parent)


SHORT = ["--trials", "2", "--epochs", "3", "--pruner", "none"]


def test_an_interrupted_sweep_goes_on_from_the_checkpoint_to_the_same_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("--trials", "3") == 0
    assert [row["state"] for row in trials()] == ["complete"] * 3
    expected, parent = tried(), parent_of(tmp_path)
    best = min(trials(), key=lambda row: row["value"])
    assert (parent.info.status, parent.data.tags[names.BEST + "trial"]) == ("FINISHED", str(best["trial"]))
    figures = client(tmp_path).list_artifacts(parent.info.run_id, "figures")
    assert [item.path for item in figures] == ["figures/history.png"]

    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(tmp_path / "small.py", other)
    monkeypatch.chdir(other)
    in_epoch(monkeypatch, 3, interrupt)
    capsys.readouterr()
    assert sweep("--trials", "3") == 130
    printed = capsys.readouterr().out
    assert "study small: 1 complete, 1 waiting, 1 retried" in printed
    assert "go on: the same command again" in printed
    _, retried, waiting = trials()
    assert (retried["epochs"], waiting["epochs"], retried["runs"]) == (1, 1, waiting["runs"])
    (run,) = runs_of(waiting, other)
    assert (run.info.status, run.data.tags[names.TRIAL_STATE]) == ("KILLED", "waiting")
    assert parent_of(other).info.status == "KILLED"
    assert cli.main(["sweep", "small.py", *SEARCHED[2:], *SEARCHED[:2], *OPTIONS, "--trials", "3"]) == 0, "short form"
    assert tried() == expected
    assert live()[1]["runs"] == waiting["runs"], "the same run goes on"
    agree(other)
    assert [len(curve(runs_of(row, other)[0], other)) for row in live()] == [2, 2, 2]
    assert parent_of(other).info.status == "FINISHED"


def test_a_run_that_a_silent_worker_still_holds_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_epoch(monkeypatch, 2, interrupt)
    assert sweep(*SHORT) == 130
    held = trials()[0]["runs"]
    with run_dir.locked(held):
        assert sweep(*SHORT) == 0
    assert [row["state"] for row in live()] == ["complete"] * 2
    assert held not in {row["runs"] for row in live()}
    agree(tmp_path)
    assert reader.run(held).tags[names.TRIAL_STATE] == "abandoned"
    assert "could not get at the checkpoints" in reader.run(held).tags[names.ERROR]


def test_a_worker_whose_trial_was_given_away_goes_on_with_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def give_away() -> None:
        study = Study(Storage("", 60), "small")
        study.storage.rdb.grace_period = -1  # as if this worker had been silent
        optuna.storages.fail_stale_trials(study.optuna)

    in_epoch(monkeypatch, 2, give_away)
    assert sweep(*SHORT) == 0
    printed = capsys.readouterr()
    assert "note: trial 0 was given to another worker, since this one was silent for too long" in printed.err
    assert [row["state"] for row in trials()] == ["retried", "complete", "complete"]
    agree(tmp_path)
    assert [len(curve(runs_of(row, tmp_path)[0], tmp_path)) for row in live()] == [3, 3]


def test_a_study_grows_and_keeps_its_terms(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("--timeout", "0") == 0
    printed = capsys.readouterr().out
    assert "study small: no trials" in printed
    assert "go on: the same command again" in printed
    for count, there in ((1, 1), (2, 2), (2, 2), (1, 2)):
        assert sweep("--trials", str(count)) == 0
        assert len(trials()) == there
    assert "study 'small' has its 2 trials; --trials 4 would add to them" in capsys.readouterr().out
    before = tried()
    others = {
        ("--epochs", "3"): "epochs: was 2, is 3",
        ("--heartbeat", "20"): "heartbeat: was 15, is 20",
        ("--space", "model.latent=2,3"): f'space: was {spaces.dumped(SPACE)}, is {{"model.latent": "2,3", '
        '"optim.lr": "log:0.0001:0.1"}',
    }
    for options, said in others.items():
        assert sweep(*options) == 2
        errors = capsys.readouterr().err.splitlines()
        assert errors == [
            "error: study 'small' exists with other terms; go on with those, or take another --study NAME:",
            f"error:   {said}",
        ]
    assert tried() == before
    optuna.create_study(study_name="plain", storage=f"sqlite:///{Path('mlruns/optuna.db').resolve()}").ask()
    assert sweep("--study", "plain") == 2
    assert "study 'plain' in sqlite:///" in capsys.readouterr().err
    assert list(all_studies("")) == ["small"]


def worker_of(row: dict[str, Any]) -> int:
    return int(row["worker"].split()[1])


@pytest.fixture
def two_workers(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep in two processes, which ends with the test."""
    options = ["--trials", "3", "--jobs", "2", "--heartbeat", "1", "--epochs", "40", "--pruner", "none"]
    process = started(*COMMAND, *options, cwd=tmp_path)
    try:
        yield process
    finally:
        process.kill()  # its workers notice
        process.wait()


@pytest.mark.slow
def test_a_killed_workers_trial_is_taken_up_by_the_other(two_workers: subprocess.Popen[str], tmp_path: Path) -> None:
    wait_for("trial 1:", tmp_path, 240)
    end = time.monotonic() + 120
    while not (busy := [row for row in trials() if row["state"] == "running" and row["epochs"] >= 5]):
        assert time.monotonic() < end
        time.sleep(0.05)
    victim = worker_of(busy[0])
    assert victim != two_workers.pid
    os.kill(victim, signal.SIGKILL)
    trained = trials()[busy[0]["trial"]]["epochs"]
    assert two_workers.wait(240) == 1
    output = (tmp_path / "output.txt").read_text()
    assert "was ended by signal 9; the others go on with its trial" in output
    assert "Traceback" not in output
    assert [row["state"] for row in live()] == ["complete"] * 3
    agree(tmp_path)
    assert [len(curve(runs_of(row, tmp_path)[0], tmp_path)) for row in live()] == [40] * 3
    assert 5 <= trained < 40
    (again,) = [row for row in live() if row["runs"] == busy[0]["runs"]]
    assert (again["trial"] > busy[0]["trial"], worker_of(again) == victim) == (True, False), "from its checkpoint"
    assert len(reader.runs("small sweeps")) == 3


def test_a_cost_that_is_no_number_prunes_the_trial_alone(tmp_path: Path) -> None:
    assert sweep("--sampler", "grid", "--space", "optim.lr=1000,0.01", "--space", "model.latent=2") == 0
    first, second = trials()
    assert (first["state"], first["optim.lr"], first["value"]) == ("pruned", 1000, None)
    assert "the cost is not finite at epoch 1" in first["reason"]
    assert second["state"] == "complete"
    (run,) = runs_of(first, tmp_path)
    assert (run.data.tags[names.TRIAL_STATE], run.data.tags[names.ERROR]) == ("pruned", first["reason"])
    agree(tmp_path)


def test_a_trial_that_is_worse_than_the_median_is_pruned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = "0.03,0.02,0.01,0.04,0.05,0.0001"
    assert sweep("--sampler", "grid", "--space", f"optim.lr={rates}", "--space", "model.latent=2") == 0
    capsys.readouterr()
    assert cli.main(["sweep", "status", "small", "--json"]) == 0
    *good, bad = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in good] == ["complete"] * 5
    assert (bad["state"], bad["epochs"]) == ("pruned", 1)
    assert bad["reason"].startswith("pruned after epoch 1 at ")
    (run,) = runs_of(bad, tmp_path)
    assert (run.info.status, run.data.tags[names.TRIAL_STATE]) == ("KILLED", "pruned")
    assert len(curve(run, tmp_path)) == 1
    assert not list(tmp_path.glob("mlruns/runs/*/checkpoints")), "of trials that are over none is kept"
    agree(tmp_path)


def test_three_failures_in_a_row_stop_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("the cable is out")

    monkeypatch.setattr(Trainer, "epoch", fail)
    assert sweep("--trials", "9") == 1
    assert "3 trials in a row have failed; this worker stops" in capsys.readouterr().err
    assert [(row["state"], row["reason"]) for row in trials()] == [("failed", "the cable is out")] * 3
    agree(tmp_path)


def test_trials_see_no_test_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Trainer) -> None:
        raise AssertionError("the test images were looked at")

    monkeypatch.setattr(Trainer, "test", refuse)
    (tmp_path / "small.py").write_text((tmp_path / "small.py").read_text().replace(", holdout=5000", ""))
    assert sweep("--trials", "1", "--epochs", "1") == 0
    for row in trials():
        (run,) = runs_of(row, tmp_path)
        assert run.data.params["data.holdout"] == "5000"
        assert not [metric for metric in run.data.metrics if metric.startswith("test/")]
        assert not client(tmp_path).list_artifacts(run.info.run_id, "images")
        assert not [item for item in client(tmp_path).list_artifacts(run.info.run_id) if item.path.endswith(".png")]


def test_a_trials_value_is_the_mean_over_its_seeds(tmp_path: Path) -> None:
    assert sweep("--trials", "1", "--seeds-per-trial", "2", "--seed", "7") == 0
    (row,) = trials()
    runs = runs_of(row, tmp_path)
    assert [run.data.params[names.SEED] for run in runs] == ["7", "8"]
    last = [curve(run, tmp_path)[-1] for run in runs]
    assert last[0] != last[1]
    assert row["value"] == fmean(last)
    assert row["epochs"] == 4
    third = fmean([last[0], curve(runs[1], tmp_path)[0]])
    reports = Study(Storage(""), "small").trials()[0].intermediate_values
    assert reports == pytest.approx({1: curve(runs[0], tmp_path)[0], 2: last[0], 3: third, 4: row["value"]})


def test_a_tracking_store_that_does_not_answer_costs_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = itertools.count()

    def away(client: MlflowClient, name: str) -> str:
        if next(calls):  # the first is for the study's parent
            raise MlflowException("away")
        return experiment_id(client, name)

    monkeypatch.setattr("repro.sweep.storage.PAUSES", ())
    with monkeypatch.context() as patch:
        patch.setattr("repro.tracking.writer.experiment_id", away)
        assert sweep(*SHORT) == 1
    assert "error: no run can be started in " in capsys.readouterr().err
    assert [row["state"] for row in trials()] == ["retried", "waiting"]
    assert sweep(*SHORT) == 0
    assert [row["state"] for row in live()] == ["complete"] * 2
    agree(tmp_path)
