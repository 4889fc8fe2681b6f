"""Studies without training: who may begin a trial, what becomes of a dead worker's, samplers, and what is refused."""

import shutil
import sqlite3
import threading
import time
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RetryHeartbeatStaleTrialCallback
from support.process import free_port
from support.sweeping import SPACE, sweep

from repro import provenance
from repro.spec import Choice, Space
from repro.sweep import study as studies
from repro.sweep.run import plots
from repro.sweep.storage import MOST_RETRIES, Storage
from repro.sweep.study import Study, Terms
from repro.tracking import parents, reader
from repro.tracking.store import open_client

pytestmark = pytest.mark.usefixtures("small_file")


def joined(folder: Path, heartbeat: int = 60, **changes: Any) -> Study:
    """A study without data or tracking store; opened again, it is another worker's."""
    terms: dict[str, Any] = {"epochs": 3, "seeds_per_trial": 1, "seed": 0, "sampler": "tpe", "pruner": "median"}
    terms |= {"heartbeat": heartbeat} | changes
    storage = Storage(f"sqlite:///{folder / 'studies.db'}", heartbeat)
    return studies.join(storage, "made", Terms("small", "s", "f", "{}", **terms), lambda _: "parent")


class Died(BaseException):
    """The worker is gone, without a word to the study."""


def run_one(study: Study, count: int, space: Space = SPACE, dies: bool = False, run: str = "") -> bool:
    """Begin a trial whose value is its learning rate; return whether there was one to begin."""

    def objective(trial: optuna.Trial) -> float:
        study.begin(trial, space)
        if run:
            trial.set_user_attr("run.0", run)
            trial.report(1.0, 1)
        if dies:
            raise Died
        return float(trial.params["optim.lr"])

    with study.claim(count) as free, suppress(Died):
        if free:
            study.optuna.optimize(objective, n_trials=1)
    return free


def test_a_study_whose_process_was_killed_while_it_made_it_has_one_parent(tmp_path: Path) -> None:
    storage, begun = Storage(f"sqlite:///{tmp_path / 'studies.db'}"), []

    def start_parent(given: str) -> str:
        begun.append(given)
        parent = parents.start_sweep("small", "made", {"epochs": "3"}, given)
        if len(begun) == 1:
            raise Died
        return parent

    terms = Terms("small", "s", "f", "{}", 3, 1, 0, "tpe", "median", 60)
    with suppress(Died):
        studies.join(storage, "made", terms, start_parent)
    study = studies.join(storage, "made", terms, start_parent)
    (only,) = reader.parents(parents.mlflow_experiment("small"))
    assert (only.run_id, only.params) == (study.parent, {"epochs": "3"})
    assert begun[0] == begun[1]


def test_several_workers_make_as_many_trials_as_asked_for_and_no_two_alike(tmp_path: Path) -> None:
    joined(tmp_path)

    def work() -> None:
        own = joined(tmp_path)
        while run_one(own, 12):
            pass

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    made = joined(tmp_path)
    assert made.states() == ["complete"] * 12
    assert len({trial.params["optim.lr"] for trial in made.trials()}) == 12
    assert made.is_done(12)
    assert not made.is_done(13)


def test_a_dead_workers_trial_goes_on_under_a_new_number_until_too_many_have_died(tmp_path: Path) -> None:
    made = joined(tmp_path)
    assert run_one(made, 1, dies=True, run="abc")
    assert not run_one(made, 1), "it may be alive"
    assert made.states() == ["running"]
    made.storage.rdb.grace_period = -1  # every heartbeat is too old
    for _ in range(MOST_RETRIES):
        assert run_one(made, 1, dies=True)
    trials = made.trials()
    assert all(trial.params == trials[0].params for trial in trials)
    assert {trial.user_attrs["run.0"] for trial in trials} == {"abc"}
    assert all(trial.intermediate_values == {1: 1.0} for trial in trials)
    assert RetryHeartbeatStaleTrialCallback.retry_history(trials[-1]) == list(range(MOST_RETRIES))
    assert made.states() == ["retried"] * MOST_RETRIES + ["running"]
    assert run_one(made, 1), "another one in place of the one that failed"
    assert made.states() == ["retried"] * MOST_RETRIES + ["failed", "complete"]
    assert made.trials()[-1].params != trials[0].params


def test_a_worker_that_dies_before_its_first_heartbeat_holds_up_nobody(tmp_path: Path) -> None:
    made = joined(tmp_path)
    made.optuna.add_trial(optuna.create_trial(state=optuna.trial.TrialState.RUNNING))
    assert run_one(made, 1)
    assert made.states() == ["retried", "complete"], "nothing was drawn, so nothing has failed"


def test_a_trial_handed_back_waits_with_what_it_had(tmp_path: Path) -> None:
    made, held = joined(tmp_path), []

    def objective(trial: optuna.Trial) -> float:
        made.begin(trial, SPACE)
        held.append(trial)
        raise Died

    with pytest.raises(Died):
        made.optuna.optimize(objective, n_trials=1)
    made.hand_back(held[0])
    made.hand_back(held[0])
    assert made.states() == ["retried", "waiting"]
    assert made.trials()[1].params == held[0].params
    assert not made.is_done(1)
    assert run_one(made, 1)
    assert made.states() == ["retried", "complete"]
    assert made.is_done(1)


def test_pruning_waits_for_five_trials_and_a_fifth_of_the_epochs(tmp_path: Path) -> None:
    joined(tmp_path, epochs=10)
    made = Study(Storage(f"sqlite:///{tmp_path / 'studies.db'}"), "made").optuna
    for value, prunes in ((100.0, False), (101.0, False), (102.0, False), (103.0, False), (1e6, False), (102.1, True)):
        trial = made.ask()
        trial.report(1e6, 1)
        assert not trial.should_prune()
        trial.report(value, 2)
        assert trial.should_prune() == prunes
        made.tell(trial, value)
    last = made.ask()
    last.report(101.9, 2)
    assert not last.should_prune()


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes", "qmc"])
def test_a_sampler_draws_the_same_in_one_go_and_in_parts(sampler: str, tmp_path: Path) -> None:
    if sampler == "cmaes" and not find_spec("cmaes"):
        pytest.skip("cmaes is not installed")
    drawn = []
    for name, parts in (("whole", [4]), ("parts", [2, 4])):
        (tmp_path / name).mkdir()
        for count in parts:
            made = joined(tmp_path / name, sampler=sampler)
            while run_one(made, count):
                pass
        drawn.append([trial.params for trial in made.trials()])
    assert drawn[0] == drawn[1]
    assert len({str(params) for params in drawn[0]}) == 4


def test_a_grid_tries_each_combination_once_and_ends(tmp_path: Path) -> None:
    space: Space = {"optim.lr": Choice(0.1, 0.01), "model.latent": Choice(2, 5)}
    made = joined(tmp_path, sampler="grid")
    for count in (3, 9, 9):
        made.queue_grid(space, count)
        while run_one(made, count, space):
            pass
        assert made.is_done(count)
    tried = [(trial.params["optim.lr"], trial.params["model.latent"]) for trial in made.trials()]
    assert tried == [(0.1, 2), (0.1, 5), (0.01, 2), (0.01, 5)]


def test_plots_are_those_of_optuna_for_which_there_are_enough_trials(tmp_path: Path) -> None:
    made = joined(tmp_path)
    while run_one(made, 3):
        pass
    found = plots(made.optuna)
    assert {"optimization_history.png", "param_importances.png", "slice.png"} <= set(found)
    assert all(png.startswith(b"\x89PNG") for png in found.values())


SECRET = "hidden-word"


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        (f"postgresql://me:{SECRET}@127.0.0.1:PORT/x", 3, "the studies in postgresql+psycopg://me:***@127.0.0.1:"),
        (f"mysql://me:{SECRET}@127.0.0.1/x", 2, "--storage mysql://me:***@127.0.0.1/x: should be"),
        (f"postgresql+nothing://me:{SECRET}@h/x", 2, "postgresql+nothing://me:***@h/x: should be"),
        (f"me:{SECRET}@nowhere", 2, "--storage ***@nowhere: is no address; should be sqlite:///FILE"),
        (
            f"postgresql+psycopg://me:{SECRET}@127.0.0.1:notaport/x",
            2,
            "--storage ***@127.0.0.1:notaport/x: is no address",
        ),
        (f"postgresql+psycopg://me:a@{SECRET}@127.0.0.1/x", 2, "***@127.0.0.1/x: should have %40 for each @"),
        (f"postgresql+psycopg://me@127.0.0.1:PORT/x?password={SECRET}", 3, "x?password=*** cannot be opened"),
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
    assert time.monotonic() - began < 60
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
