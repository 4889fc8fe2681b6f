"""Sweeps with a tiny network: what is drawn, kept, pruned, taken up again, and never looked at."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from support.process import client, started, wait_for
from support.sweeping import COMMAND, OPTIONS, SEARCHED, SPACE, agree, curve, runs_of, sweep, trials, tried

from repro import cli, names
from repro.data import load
from repro.runs import run_dir, seeds
from repro.spec import Data
from repro.sweep import status
from repro.sweep.storage import Storage
from repro.sweep.study import Study
from repro.tracking import reader
from repro.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("small_file")


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.sweep.sweep.figures", lambda _: {})


def test_the_same_command_gives_the_same_trials_whole_or_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = ["--trials", "7", "--epochs", "3"]
    assert sweep(*whole) == 0
    assert len(set(tried())) == 7
    assert {row["state"] for row in trials()} <= {"complete", "pruned"}
    agree(tmp_path)
    expected = tried()

    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(tmp_path / "small.py", other)
    monkeypatch.chdir(other)
    reported = Study._end
    ended: list[int] = []

    def interrupting(self: Study, trial: Any, *arguments: Any) -> None:
        reported(self, trial, *arguments)
        ended.append(trial.number)
        if ended in ([0, 1], [0, 1, 2, 3, 4, 5]):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Study, "_end", interrupting)
    capsys.readouterr()
    assert sweep(*whole) == 130
    assert "go on: the same command again" in capsys.readouterr().out
    assert [row["state"] for row in trials()] == ["complete"] * 2 + ["waiting"] * 5
    assert client(other).get_run(status.studies("", 15)[0]["mlflow_run"]).info.status == "KILLED"
    assert cli.main(["sweep", "small.py", *OPTIONS, *SEARCHED[2:], *SEARCHED[:2], *whole]) == 130, "in another order"
    assert sweep(*whole) == 0
    assert tried() == expected
    parent = client(other).get_run(status.studies("", 15)[0]["mlflow_run"])
    best = min(trials(), key=lambda row: row["value"] or 1e9)
    assert (parent.info.status, parent.data.tags[names.BEST + "trial"]) == ("FINISHED", str(best["trial"]))


def in_epoch(monkeypatch: pytest.MonkeyPatch, count: int, act: Callable[[], Any]) -> None:
    """Do that once, after so many epochs have been trained in all."""
    epoch, trained = Trainer.epoch, itertools.count(1)

    def watched(self: Trainer, after_step: Callable[[], None]) -> dict[str, float]:
        row = epoch(self, after_step)
        if next(trained) == count:
            act()
        return row

    monkeypatch.setattr(Trainer, "epoch", watched)


SHORT = ["--trials", "2", "--epochs", "6", "--pruner", "none", "--sampler", "qmc"]


def test_ctrl_c_in_the_middle_of_a_trial_costs_no_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_epoch(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert sweep(*SHORT) == 130
    before = trials()
    assert [(row["state"], row["epochs"]) for row in before] == [("waiting", 3), ("waiting", 0)]
    (run,) = runs_of(before[0], tmp_path)
    assert (run.info.status, run.data.tags[names.TRIAL_STATE]) == ("KILLED", "waiting")
    capsys.readouterr()
    assert cli.main(["sweep", "--status", "--study", "small"]) == 0
    _, row, rest = capsys.readouterr().out.splitlines()
    assert (row.split()[:2], rest) == (["0", "waiting"], "not begun: 1")
    assert sweep(*SHORT) == 0
    assert trials()[0]["runs"] == before[0]["runs"]
    agree(tmp_path)
    assert all(len(curve(runs_of(row, tmp_path)[0], tmp_path)) == 6 for row in trials())
    assert sweep(*SHORT, "--study", "whole") == 0
    assert tried() == tried("whole"), "also where each draw is the next of a sequence"


def test_a_run_that_a_silent_worker_still_holds_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_epoch(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert sweep(*SHORT) == 130
    held = trials()[0]["runs"]
    with run_dir.locked(held):
        assert sweep(*SHORT) == 0
    assert [row["state"] for row in trials()] == ["complete"] * 2
    assert trials()[0]["runs"] != held
    agree(tmp_path)
    assert reader.run(held).tags[names.TRIAL_STATE] == "abandoned"


def test_a_worker_whose_trial_was_given_away_goes_on_with_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def give_away() -> None:
        storage = Storage("", 1)
        (row,) = (row for row in Study(storage, "small").trials() if row.state == TrialState.RUNNING)
        storage.rdb.set_trial_user_attr(row._trial_id, "owner", "another, which dies")

    in_epoch(monkeypatch, 3, give_away)
    assert sweep(*SHORT, "--heartbeat", "1") == 0
    printed = capsys.readouterr()
    assert "note: trial 0 was given to another worker, since this one was silent for too long" in printed.err
    assert "a trial of another worker is still running, to be taken up if they go silent" in printed.out
    assert [row["state"] for row in trials()] == ["complete"] * 2
    agree(tmp_path)
    assert len(curve(runs_of(trials()[0], tmp_path)[0], tmp_path)) == 6


def test_a_study_grows_and_keeps_its_terms(capsys: pytest.CaptureFixture[str]) -> None:
    for count, there in ((3, 3), (5, 5), (5, 5), (2, 5)):
        assert sweep("--trials", str(count)) == 0
        assert len(trials()) == there
    assert "study 'small' has its 5 trials; --trials 10 would add to them" in capsys.readouterr().out
    before = tried()
    others = {
        ("--epochs", "3"): "epochs: was 2, is 3",
        ("--seed", "1"): "seed: was 0, is 1",
        ("--sampler", "random"): "sampler: was tpe, is random",
        ("--pruner", "none"): "pruner: was median, is none",
        ("--seeds-per-trial", "2"): "seeds per trial: was 1, is 2",
        ("--heartbeat", "20"): "heartbeat: was 15, is 20",
        ("--space", "model.latent=2,3"): "space: was model.latent=2,3,5, optim.lr=log:0.0001:0.1, is model.latent=2,3, "
        "optim.lr=log:0.0001:0.1",
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
    assert [row["study"] for row in status.studies("", 15)] == ["small"]


def processes_of(parent: int) -> Iterator[int]:
    """Its workers."""
    for text in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if b"spawn_main" in Path(f"/proc/{text}/cmdline").read_bytes():
            yield int(text)


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


@pytest.mark.timeout(600)
def test_a_killed_workers_trial_is_taken_up_by_the_other(two_workers: subprocess.Popen[str], tmp_path: Path) -> None:
    wait_for("trial 1:", tmp_path, 240)
    end = time.monotonic() + 120
    while not (busy := [row for row in trials() if row["state"] == "running" and row["epochs"] >= 5]):
        assert time.monotonic() < end
        time.sleep(0.05)
    victim = worker_of(busy[0])
    assert victim in processes_of(two_workers.pid)
    os.kill(victim, signal.SIGKILL)
    trained = trials()[busy[0]["trial"]]["epochs"]
    assert two_workers.wait(240) == 1
    output = (tmp_path / "output.txt").read_text()
    assert "was ended by signal 9; the others have gone on with its trial" in output
    assert "Traceback" not in output
    assert [row["state"] for row in trials()] == ["complete"] * 3
    agree(tmp_path)
    assert [len(curve(runs_of(row, tmp_path)[0], tmp_path)) for row in trials()] == [40] * 3
    taken = trials()[busy[0]["trial"]]
    assert 5 <= trained < 40
    assert (taken["runs"], worker_of(taken) == victim) == (busy[0]["runs"], False), "from its checkpoint"
    assert len(reader.runs("small sweeps")) == 3


def test_a_cost_that_is_no_number_prunes_the_trial_alone(tmp_path: Path) -> None:
    options = ["--sampler", "grid", "--space", "optim.lr=1000,0.01", "--space", "model.latent=2"]
    assert sweep(*options) == 0
    first, second = trials()
    assert (first["state"], first["optim.lr"], first["value"]) == ("pruned", 1000, None)
    assert "the cost is not finite at epoch 1" in first["reason"]
    assert second["state"] == "complete"
    (run,) = runs_of(first, tmp_path)
    assert (run.data.tags[names.TRIAL_STATE], run.data.tags[names.ERROR]) == ("pruned", first["reason"])
    agree(tmp_path)


def test_a_trial_that_is_worse_than_the_median_is_pruned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = "0.03,0.02,0.01,0.04,0.05,0.0001"
    options = ["--sampler", "grid", "--space", f"optim.lr={rates}", "--space", "model.latent=2", "--epochs", "3"]
    assert sweep(*options, "--trials", "6") == 0
    capsys.readouterr()
    assert cli.main(["sweep", "--status", "--study", "small", "--json"]) == 0
    *good, bad = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in good] == ["complete"] * 5
    assert (bad["state"], bad["epochs"]) == ("pruned", 1)
    assert bad["reason"].startswith("pruned after epoch 1 at ")
    (run,) = runs_of(bad, tmp_path)
    assert (run.info.status, run.data.tags[names.TRIAL_STATE]) == ("KILLED", "pruned")
    assert len(curve(run, tmp_path)) == 1
    assert not list(tmp_path.glob("mlruns/runs/*/checkpoints")), "of trials that are over none is kept"
    agree(tmp_path)


def test_trials_see_no_test_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Trainer) -> None:
        raise AssertionError("the test images were looked at")

    monkeypatch.setattr(Trainer, "test", refuse)
    (tmp_path / "small.py").write_text((tmp_path / "small.py").read_text().replace(", holdout=5000", ""))
    drawn: list[torch.Tensor] = []
    of = Trainer.__init__

    def watched(self: Trainer, *arguments: Any) -> None:
        of(self, *arguments)
        drawn.append(self.heldout_images)

    monkeypatch.setattr(Trainer, "__init__", watched)
    assert sweep("--trials", "2") == 0
    dataset = load(Data("mnist", holdout=5000), "stand-in")
    assert len(drawn) == 2
    assert all(torch.equal(images, dataset.heldout) for images in drawn)
    for row in trials():
        (run,) = runs_of(row, tmp_path)
        assert run.data.params["data.holdout"] == "5000"
        assert not [metric for metric in run.data.metrics if metric.startswith("test")]
        assert not client(tmp_path).list_artifacts(run.info.run_id, "images")
        assert not [item for item in client(tmp_path).list_artifacts(run.info.run_id) if item.path.endswith(".png")]


def test_finish_retrains_the_best_on_fresh_seeds_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("--finish") == 2
    assert "error: no study 'small' to finish; python -m repro sweep --status lists them\n" in capsys.readouterr().err
    assert sweep("--timeout", "0") == 0
    capsys.readouterr()
    assert sweep("--finish") == 2
    assert capsys.readouterr().err == (
        "error: study 'small' has no complete trial yet; the same command without --finish goes on\n"
    )
    assert sweep("--trials", "3") == 0
    finish = [*COMMAND, "--finish", "--best", "1", "--seeds", "2", "--json"]
    capsys.readouterr()
    assert cli.main(finish) == 0
    printed = capsys.readouterr().out
    best, own = json.loads(printed)
    chosen = min((row for row in trials() if row["value"]), key=lambda row: row["value"])
    assert (best["trial"], best["trial_value"]) == (chosen["trial"], chosen["value"])
    assert (own["trial"], own["setting"], own["optimism"]) == (None, {}, None)
    runs = [client(tmp_path).get_run(run_id) for run_id in best["runs"]]
    assert [run.data.params[names.SEED] for run in runs] == ["1", "2"], "no trial had these"
    assert {run.data.params["training.epochs"] for run in runs} == {"3"}
    assert all(run.data.params[key] == str(chosen[key]) for run in runs for key in SPACE)
    then = [curve(run, tmp_path)[1] for run in runs]
    assert best["optimism"] == pytest.approx(fmean(then) - chosen["value"])
    assert best["test_neg_elbo"] == [run.data.metrics[names.TEST_NEG_ELBO] for run in runs]
    parent = status.studies("", 15)[0]["mlflow_run"]
    assert "finish.json" in [item.path for item in client(tmp_path).list_artifacts(parent)]
    count = len(list((tmp_path / "mlruns/runs").iterdir()))
    assert cli.main(finish) == 0
    assert json.loads(capsys.readouterr().out) == [best, own]
    assert len(list((tmp_path / "mlruns/runs").iterdir())) == count
    attributes = Study(Storage("", 15), "small").optuna
    terms = attributes.user_attrs["terms"]
    attributes.set_user_attr("terms", terms | {"fingerprint": "0"})
    assert cli.main(finish) == 2
    assert "error: study 'small' chose by other data than stand-in: " in capsys.readouterr().err
    attributes.set_user_attr("terms", terms)
    other = tmp_path / "small.py"
    other.write_text(other.read_text().replace("Dense(16)", "Dense(15)"))
    assert cli.main(finish) == 2
    assert "error: study 'small' was of another spec of small" in capsys.readouterr().err


def test_an_interrupted_finish_compares_what_has_finished(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish = [*COMMAND, "--finish", "--best", "1", "--seeds", "1", "--json"]
    assert sweep("--trials", "1") == 0
    capsys.readouterr()
    assert cli.main(finish) == 0
    whole = json.loads(capsys.readouterr().out)
    train, trained = seeds.run, []

    def interrupted(*arguments: Any) -> seeds.SeedsResult:
        trained.append(arguments)
        return replace(train(*arguments), exit_code=130)

    monkeypatch.setattr(seeds, "run", interrupted)
    assert cli.main(finish) == 130
    printed = capsys.readouterr()
    assert json.loads(printed.out) == whole
    assert len(trained) == 1, "nothing is begun any more"
    assert "go on: the same command again" in printed.err


def test_a_trials_value_is_the_mean_over_its_seeds(tmp_path: Path) -> None:
    assert sweep("--trials", "1", "--seeds-per-trial", "2", "--seed", "7") == 0
    (row,) = trials()
    runs = runs_of(row, tmp_path)
    assert [run.data.params[names.SEED] for run in runs] == ["7", "8"]
    last = [curve(run, tmp_path)[-1] for run in runs]
    assert last[0] != last[1]
    assert row["value"] == fmean(last)
    assert row["epochs"] == 4
    reports = Study(Storage("", 15), "small").trials()[0].intermediate_values
    assert reports == pytest.approx({1: curve(runs[0], tmp_path)[0], 2: last[0], 4: row["value"],
                                     3: fmean([last[0], curve(runs[1], tmp_path)[0]])})  # fmt: skip


def test_no_time_begins_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("--timeout", "0", "--trials", "4") == 0
    printed = capsys.readouterr().out
    assert "study small: 4 waiting" in printed
    assert "go on: the same command again" in printed
    assert [(row["state"], row["runs"]) for row in trials()] == [("waiting", None)] * 4
    assert not (tmp_path / "mlruns/runs").exists()


def test_a_finished_study_draws_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_OFFLINE", "1")
    assert sweep("--trials", "3", "--epochs", "1") == 0
    parent = status.studies("", 15)[0]["mlflow_run"]
    found = {item.path for item in client(tmp_path).list_artifacts(parent, "figures")}
    assert {"figures/history.png", "figures/slice.png", "figures/importances.png"} <= found
