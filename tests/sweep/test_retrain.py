"""A study that an earlier version made: it goes on, and its best settings are retrained."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from support.process import client
from support.run_here import run_all_here
from support.sweeping import (
    SPACE,
    curve,
    retrain,
    runs_of,
    sweep,
    trials,
)  # fmt: skip

from repro import cli, names, registry
from repro.data import load
from repro.runs import seeds
from repro.sweep import space as spaces
from repro.sweep.storage import Storage
from repro.sweep.study import Study
from repro.tracking import layout, parents

pytestmark = pytest.mark.usefixtures("small_file")


@pytest.fixture(autouse=True)
def _without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.sweep.run.plots", lambda _: {"history.png": b"a picture"})


@pytest.fixture
def earlier(small_file: Path) -> Study:
    """A study as earlier versions left it: each trial waited in a queue, and kept its number when it was taken up."""
    entry = registry.load(small_file)
    storage = Storage("", 15)
    made = optuna.create_study(study_name="small", storage=storage.rdb)
    made.set_user_attr("mlflow_run_id", parents.start_sweep("small", "small", {"epochs": "1"}, "begun"))
    terms = {"experiment": "small", "signature": entry.spec.signature, "space": spaces.dumped(SPACE), "epochs": 1}
    terms |= {"fingerprint": load(entry.spec.data, "stand-in").fingerprint, "seeds_per_trial": 1, "seed": 0}
    made.set_user_attr("terms", terms | {"sampler": "tpe", "pruner": "median", "heartbeat": 15})
    kinds = {"optim.lr": FloatDistribution(1e-4, 1e-1, log=True), "model.latent": CategoricalDistribution((2, 3, 5))}
    for number, value in enumerate((300.0, 250.0)):
        attributes = {"owner": "host 12 abcdef", "attempts": 2, "seconds": 1.5, "run.0": f"{number}" * 32}
        params = {"optim.lr": 0.002, "model.latent": 2 + number}
        made.add_trial(create_trial(value=value, params=params, distributions=kinds, user_attrs=attributes))
    made.add_trial(create_trial(state=TrialState.WAITING))
    return Study(storage, "small")


def test_a_study_of_an_earlier_version_is_listed_and_goes_on(
    earlier: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sweep", "status", "--experiment", "small", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["complete"], row["waiting"], row["best"], row["trial"]) == (2, 1, 250.0, 1)
    first, _, waiting = trials()
    assert (first["runs"], first["worker"], waiting["runs"]) == ("0" * 32, "host 12 abcdef", None)
    assert sweep("--epochs", "1", "--trials", "3") == 0
    assert [row["state"] for row in trials()] == ["complete"] * 3
    assert runs_of(trials()[2], tmp_path)[0].data.tags[names.TRIAL] == "2"


def test_retrain_trains_the_best_on_fresh_seeds_once_and_compares_what_has_finished(
    earlier: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(seeds, "run_all", run_all_here)
    command = ["--best", "1", "--seeds", "2", "--json"]
    assert retrain(*command) == 0
    best, own = json.loads(capsys.readouterr().out)
    assert (best["trial"], best["trial_value"]) == (1, 250.0)
    assert (own["trial"], own["setting"], own["optimism"]) == (None, {}, None)
    runs = [client(tmp_path).get_run(run_id) for run_id in best["runs"]]
    assert [run.data.params[names.SEED] for run in runs] == ["1", "2"], "no trial had these"
    assert {run.data.params["training.epochs"] for run in runs} == {"3"}
    assert {(run.data.params["optim.lr"], run.data.params["model.latent"]) for run in runs} == {("0.002", "3")}
    assert best["optimism"] == pytest.approx(fmean(curve(run, tmp_path)[0] for run in runs) - 250)
    assert best["test_neg_elbo"] == [layout.metrics(run.data)[names.TEST_NEG_ELBO] for run in runs]
    assert "finish.json" in [item.path for item in client(tmp_path).list_artifacts(earlier.parent)]
    count = len(list((tmp_path / "mlruns/runs").iterdir()))
    train, trained = seeds.run, []

    def interrupted(*arguments: Any) -> seeds.SeedsResult:
        trained.append(arguments)
        return replace(train(*arguments), exit_code=130)

    monkeypatch.setattr(seeds, "run", interrupted)
    assert retrain(*command) == 130
    printed = capsys.readouterr()
    assert (json.loads(printed.out), len(trained)) == ([best, own], 1), "nothing is begun any more"
    assert "go on: the same command again" in printed.err
    assert len(list((tmp_path / "mlruns/runs").iterdir())) == count


def test_retrain_refuses_another_study_spec_and_data(
    earlier: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terms = earlier.optuna.user_attrs["terms"]
    refused = {
        "experiment": ("large", "study 'small' is of large, not of small"),
        "signature": ("0", "study 'small' was of another spec of small"),
        "fingerprint": ("0", "study 'small' chose by other data than stand-in: "),
    }
    for key, (value, said) in refused.items():
        earlier.optuna.set_user_attr("terms", terms | {key: value})
        assert retrain() == 2
        assert f"error: {said}" in capsys.readouterr().err
    assert retrain("--study", "other") == 2
    assert "error: no study 'other'; there are: small\n" in capsys.readouterr().err
    empty = optuna.create_study(study_name="empty", storage=earlier.storage.rdb)
    empty.set_user_attr("terms", terms)
    assert retrain("--study", "empty") == 2
    assert capsys.readouterr().err == "error: study 'empty' has no complete trial yet; sweep run goes on with it\n"
    assert not (tmp_path / "mlruns/runs").exists()
