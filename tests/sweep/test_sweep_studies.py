"""Studies and where they are kept: who may claim a trial, what samplers and pruners do, what is refused."""

import shutil
import sqlite3
import threading
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState
from support.process import free_port
from support.sweeping import SPACE, sweep, trials, tried

from repro import provenance
from repro.data import load
from repro.spec import Data
from repro.sweep import study
from repro.sweep.storage import Storage
from repro.sweep.study import Study, Terms
from repro.tracking.store import open_client

pytestmark = pytest.mark.usefixtures("small_file")


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.sweep.sweep.figures", lambda _: {})


@pytest.fixture
def made(tmp_path: Path) -> Study:
    """A study of its own, without any data or tracking store."""
    return joined(Storage(f"sqlite:///{tmp_path / 'studies.db'}", 1), "made")


def joined(storage: Storage, name: str, **changes: Any) -> Study:
    terms: dict[str, Any] = {"epochs": 3, "seeds_per_trial": 1, "seed": 0, "sampler": "tpe", "pruner": "median"}
    terms["heartbeat"] = storage.heartbeat
    return study.join(storage, name, Terms("small", "s", "f", "{}", **(terms | changes)), lambda: "parent")


def test_no_trial_is_claimed_by_two(made: Study, tmp_path: Path) -> None:
    assert made.plan(24, SPACE) == 24
    claimed: list[tuple[int, dict[str, Any]]] = []

    def claim(owner: str) -> None:
        own = Study(Storage(f"sqlite:///{tmp_path / 'studies.db'}", 60), "made")
        while trial := own.claim(owner, SPACE):
            claimed.append((trial.number, trial.params))

    threads = [threading.Thread(target=claim, args=(f"owner {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(number for number, _ in claimed) == list(range(24))
    assert all(params == made.trials()[number].params for number, params in claimed)
    assert made.plan(24, SPACE) == 0


def test_a_trial_given_back_is_claimed_with_what_it_had(made: Study) -> None:
    made.plan(2, SPACE)
    first = made.claim("a", SPACE)
    assert first is not None
    made.give_back(first, "a", 1.5)
    for _ in range(study.MOST_ATTEMPTS + 1):  # a worker that gives back has not died
        again = made.claim("b", SPACE)
        assert again is not None
        assert (again.number, again.params, again.user_attrs["seconds"]) == (0, first.params, 1.5)
        made.give_back(again, "b", 1.5)
    with pytest.raises(study.LostError, match="trial 0 was given to another worker"):
        made.end(first, "a", TrialState.COMPLETE, 1.0, "", 2.0)
    third = made.claim("c", SPACE)
    assert third is not None
    made.end(third, "c", TrialState.COMPLETE, 1.0, "", 2.0)
    assert made.best()[0].values == [1.0]


def test_a_trial_over_which_too_many_workers_die_fails(made: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    made.plan(1, SPACE)
    silent: list[int] = []
    monkeypatch.setattr(made.storage.rdb, "_get_stale_trial_ids", lambda _: silent)
    params = []
    for number in range(study.MOST_ATTEMPTS):
        trial = made.claim(f"owner {number}", SPACE)
        assert trial is not None
        params.append(trial.params)
        silent.clear()
        assert made.claim("too early", SPACE) is None
        silent.append(trial._trial_id)
    assert made.claim("the last", SPACE) is None
    assert all(each == params[0] for each in params)
    (failed,) = made.trials()
    assert (failed.state, failed.user_attrs["reason"]) == (TrialState.FAIL, "its worker died 5 times")
    assert made.plan(1, SPACE) == 1, "one that failed is not counted"


def test_pruning_waits_for_five_trials_and_a_fifth_of_the_epochs(tmp_path: Path) -> None:
    made = joined(Storage(f"sqlite:///{tmp_path / 'studies.db'}", 60), "long", epochs=10)
    made.plan(7, SPACE)
    for value, prunes in ((100.0, False), (101.0, False), (102.0, False), (103.0, False), (1e6, False), (102.1, True)):
        trial = made.claim("a", SPACE)
        assert trial is not None
        trial.report(1e6, 1)
        assert not trial.should_prune()
        trial.report(value, 2)
        assert trial.should_prune() == prunes
        made.end(trial, "a", TrialState.COMPLETE, value, "", 1.0)
    last = made.claim("a", SPACE)
    assert last is not None
    last.report(101.9, 2)
    assert not last.should_prune()


@pytest.mark.parametrize("sampler", ["random", "gp", "cmaes", "qmc"])
def test_every_sampler_makes_two_trials(sampler: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = sweep("--sampler", sampler, "--trials", "3", "--epochs", "1")
    if sampler == "cmaes" and not find_spec("cmaes"):
        assert code == 2
        assert capsys.readouterr().err == "error: --sampler cmaes: needs the package cmaes; pip install cmaes\n"
        return
    assert code == 0
    assert len({row[3:5] for row in tried()}) == 3
    assert [row["state"] for row in trials()] == ["complete"] * 3


def test_a_grid_tries_each_combination_once(capsys: pytest.CaptureFixture[str]) -> None:
    grid = ["--sampler", "grid", "--space", "optim.lr=0.1,0.01", "--space", "model.latent=2,5", "--epochs", "1"]
    assert sweep(*grid, "--trials", "3") == 0
    assert sweep(*grid, "--trials", "9") == 0
    cells = [(row["optim.lr"], row["model.latent"]) for row in trials()]
    assert cells == [(0.1, 2), (0.1, 5), (0.01, 2), (0.01, 5)]
    capsys.readouterr()
    assert sweep(*grid, "--trials", "9") == 0
    assert "study 'small' has its 4 trials; it has tried all combinations" in capsys.readouterr().out


SECRET = "hidden-word"


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        (
            f"postgresql://me:{SECRET}@127.0.0.1:PORT/studies",
            3,
            "the studies in postgresql+psycopg://me:***@127.0.0.1:",
        ),
        (
            f"mysql://me:{SECRET}@127.0.0.1/studies",
            2,
            "--storage mysql://me:***@127.0.0.1/studies: should be",
        ),
        (
            f"postgresql+nothing://me:{SECRET}@h/studies",
            2,
            "postgresql+nothing://me:***@h/studies: should be",
        ),
        (f"me:{SECRET}@nowhere", 2, "--storage ***@nowhere: is no address; should be sqlite:///FILE"),
        ("sqlite://", 2, "should be sqlite:///FILE"),
        ("sqlite:///:memory:", 2, "should be sqlite:///FILE"),
        ("sqlite:///nowhere/studies.db", 2, "should be a file in a directory that exists"),
        ("sqlite:///small.py", 3, "small.py cannot be opened: "),
    ],
)
def test_a_storage_that_cannot_be_is_refused_in_a_sentence(
    url: str, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, began = set(tmp_path.iterdir()), time.monotonic()
    assert sweep("--storage", url.replace("PORT", str(free_port()))) == code
    assert time.monotonic() - began < 20
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    (line,) = (line for line in printed.err.splitlines() if line.startswith("error: "))
    assert said in line
    assert not {path.name for path in set(tmp_path.iterdir()) - before} - {"__pycache__", "small.py.lock"}


def test_a_tracking_store_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mlruns").mkdir()
    assert sweep("--storage", "sqlite:///mlruns/mlflow.db") == 2, "where one would be"
    assert "is a tracking store of MLflow's; studies need one of their own" in capsys.readouterr().err
    assert not list(Path("mlruns").iterdir())
    open_client()
    moved = shutil.copy(tmp_path / "mlruns/mlflow.db", tmp_path / "copy.db")
    for path in ("mlruns/mlflow.db", moved):
        with closing(sqlite3.connect(path)) as connection:
            before = list(connection.iterdump())
        assert sweep("--storage", f"sqlite:///{path}") == 2
        assert "is a tracking store of MLflow's" in capsys.readouterr().err
        with closing(sqlite3.connect(path)) as connection:
            assert list(connection.iterdump()) == before


def test_a_password_of_the_command_line_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["repro", "sweep", "--storage", f"postgresql://me:{SECRET}@host/studies"])
    assert SECRET not in provenance.command()


@pytest.mark.parametrize(("name", "first"), [("mnist", True), ("cifar10", False)])
def test_the_images_held_out_are_the_first_of_mnist_and_the_last_of_cifar10(name: Any, first: bool) -> None:
    every, cut = load(Data(name), "stand-in"), load(Data(name, holdout=5000), "stand-in")
    count = len(cut.heldout)
    assert count + len(cut.train) == len(every.train)
    parts = (cut.heldout, cut.train) if first else (cut.train, cut.heldout)
    assert torch.equal(torch.cat(parts), every.train)
    assert torch.equal(every.heldout, every.test)
    assert not torch.equal(cut.heldout, every.train[-count:] if first else every.train[:count])
