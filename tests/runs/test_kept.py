"""`runs`, `rm` and `prune`: what is listed, what is deleted, and all that must be left alone."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric, Param, RunTag
from support.process import repro

from repro import cli, names
from repro.runs import kept, run_dir
from repro.runs.config import RunConfig
from repro.runs.result import DataSource, RunResult
from repro.spec import Experiment
from repro.tracking import reader
from repro.tracking.store import experiment_id, open_client

BYTES = 1000  # of each file


@pytest.fixture
def make(small: Experiment) -> Any:
    """A function that makes a run of two epochs: its record, its folder with checkpoints, and its artifacts."""

    def one(status: str = "FINISHED", here: bool = True, began: float | None = None, **tags: str) -> str:
        client = open_client()
        where = experiment_id(client, "small sweeps" if names.TRIAL in tags else "small")
        began = time.time() if began is None else began
        info = client.create_run(where, run_name="small seed 0", start_time=int(began * 1000)).info
        run_id = str(info.run_id)
        client.log_batch(
            run_id,
            metrics=[Metric(names.COST, 100.0 - epoch, int(began * 1000), epoch) for epoch in (1, 2)],
            params=[Param("training.epochs", "2"), Param(names.SEED, "0")],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        if status != "RUNNING":
            client.set_terminated(run_id, status)
        copies = Path(info.artifact_uri.removeprefix("file://")) / "checkpoints"
        if here:
            run_dir.save_config(run_id, RunConfig("small", small))
            data = DataSource("nowhere", False, "f")
            result = RunResult(run_id=run_id, status="FINISHED", experiment="small", seed=0, epochs=2, data=data)
            run_dir.save_result(run_id, replace(result, status=status))  # type: ignore[arg-type]
        for folder in (copies, run_dir.checkpoints(run_id)) if here else (copies,):
            folder.mkdir(parents=True)
            (folder / "epoch-000002.safetensors").write_bytes(bytes(BYTES))
        return run_id

    return one


def ids() -> dict[str, str]:
    return {run.run_id: run.state for run in kept.runs(trials=True)}


def freed() -> dict[str, tuple[str, int]]:
    return {each.run_id: (each.reason, each.bytes) for each in kept.waste()}


def test_runs_are_listed_with_state_epoch_cost_and_size(make: Any, tmp_path: Path) -> None:
    finished, cut_off, trained = make(began=1.0), make("RUNNING", began=2.0), make("RUNNING", began=3.0)
    trial = make("KILLED", began=4.0, **{names.TRIAL: "0"})
    elsewhere, silent = make("RUNNING", here=False), make("RUNNING", here=False, began=5.0)
    with run_dir.locked(trained):
        said = json.loads(repro("runs", "--json", cwd=tmp_path).stdout)
        states = {row["run_id"]: row["state"] for row in said}
    assert list(states) == [elsewhere, silent, trained, cut_off, finished], "the newest first, without trials"
    assert states == {
        finished: "finished", cut_off: "cut off", trained: "running", elsewhere: "running", silent: "cut off"
    }  # fmt: skip
    (row,) = [row for row in said if row["run_id"] == finished]
    assert (row["epoch"], row["epochs"], row["cost"], row["experiment"]) == (2, 2, 98.0, "small")
    assert 2 * BYTES < row["bytes"] < 20 * BYTES
    only = json.loads(repro("runs", "--state", "killed", "--trials", "--json", cwd=tmp_path).stdout)
    assert [row["run_id"] for row in only] == [trial]
    assert "1.0 kB" not in repro("runs", "mnist_fc", cwd=tmp_path).stdout, "of another experiment"


def test_rm_asks_and_deletes_the_record_and_all_folders(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, stays = make(), make()
    monkeypatch.setattr("sys.stdin", (tmp_path / "no_answer").open("w+"))
    assert cli.main(["rm", gone[:8]]) == 1
    assert set(ids()) == {gone, stays}
    folders = kept._folders(gone)
    assert len(folders) == 2
    deleted = repro("rm", gone[:8], "--yes", "--json", cwd=tmp_path)
    assert [row["run_id"] for row in json.loads(deleted.stdout)] == [gone]
    assert set(ids()) == {stays}
    assert not any(folder.exists() for folder in folders)
    assert reader.lifecycle(gone) == "deleted"


def test_a_store_without_runs_names_the_command_that_makes_one(tmp_path: Path) -> None:
    process = repro("runs", cwd=tmp_path)
    assert (process.returncode, "python -m repro run mnist_fc" in process.stdout) == (0, True)


def test_rm_refuses_a_run_that_is_trained(make: Any, tmp_path: Path) -> None:
    here, elsewhere = make("RUNNING"), make("RUNNING", here=False)
    with run_dir.locked(here):
        process = repro("rm", here, "--yes", cwd=tmp_path)
    assert (process.returncode, "being worked on" in process.stderr) == (1, True)
    process = repro("rm", elsewhere, "--yes", cwd=tmp_path)
    assert (process.returncode, "trained elsewhere" in process.stderr) == (1, True)
    assert set(ids()) == {here, elsewhere}
    assert run_dir.epochs(here) == 2
    process = repro("rm", "nothing", "", "--yes", cwd=tmp_path)
    assert (process.returncode, process.stderr.count("is no run")) == (2, 2)


def test_prune_frees_what_no_command_needs_and_only_that(make: Any, tmp_path: Path) -> None:
    finished, unfinished = make(), make("KILLED")
    deleted, abandoned = make(), make("KILLED", **{names.TRIAL: "0", names.TRIAL_STATE: "abandoned"})
    open_client().delete_run(deleted)
    foreign = make()
    run_dir.path(foreign).rename(run_dir.path("f" * 32))  # of a run that this store has never heard of
    found = freed()
    assert found[finished] == ("checkpoints of a finished run", 2 * BYTES)
    assert found[foreign] == ("checkpoints of a finished run", BYTES), "only its artifacts are of this store"
    assert (found[deleted][0], found[abandoned][0]) == ("deleted in MLflow", "abandoned trial")
    assert set(found) == {finished, foreign, deleted, abandoned}
    before = sorted(tmp_path.rglob("*"))
    assert repro("prune", "--dry-run", cwd=tmp_path).returncode == 0
    assert sorted(tmp_path.rglob("*")) == before
    said = json.loads(repro("prune", "--yes", "--json", cwd=tmp_path).stdout)
    assert {row["run_id"]: row["bytes"] for row in said} == {run_id: size for run_id, (_, size) in found.items()}
    assert freed() == {}
    assert set(ids()) == {finished, unfinished, foreign}
    assert run_dir.load_result(finished)
    assert (run_dir.epochs(finished), run_dir.epochs(unfinished), run_dir.epochs("f" * 32)) == (0, 2, 2)
    assert not run_dir.path(deleted).exists()
    assert "nothing to free" in repro("prune", cwd=tmp_path).stdout


def test_prune_leaves_a_run_that_is_trained_although_it_was_deleted(make: Any, tmp_path: Path) -> None:
    run_id = make("RUNNING")
    open_client().delete_run(run_id)
    with run_dir.locked(run_id):
        process = repro("prune", "--yes", cwd=tmp_path)
    assert (process.returncode, "it is left" in process.stderr) == (0, True)
    assert run_dir.epochs(run_id) == 2


def test_a_deleted_run_that_was_imported_again_keeps_its_files(make: Any) -> None:
    deleted = make()
    again = make(here=False, **{names.RUN_ID: deleted})
    open_client().delete_run(deleted)
    reader.forget_ids()
    assert {run_id: reason for run_id, (reason, _) in freed().items()} == {deleted: "checkpoints of a finished run"}
    open_client().delete_run(again)
    assert freed()[deleted][0] == "deleted in MLflow"
    kept.clean(kept.waste()[0])
    assert not run_dir.path(deleted).exists()


def test_nothing_outside_the_store_is_deleted(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids, links and addresses that lead out of `mlruns`."""
    precious = tmp_path / "precious"
    (precious / "artifacts" / "checkpoints").mkdir(parents=True)
    (precious / "artifacts" / "checkpoints" / "thesis.txt").write_text("mine")
    (precious / "run.json").write_text("{}")
    linked, imported = make(), make(here=False, **{names.RUN_ID: "../../precious"})
    run_dir.path(linked).rename(tmp_path / "moved")
    run_dir.path(linked).symlink_to(precious)
    monkeypatch.setattr("repro.tracking.artifacts.place", lambda *_: str(precious / "artifacts"))
    for run_id in (linked, imported):
        open_client().delete_run(run_id)
    assert repro("prune", "--yes", cwd=tmp_path).returncode == 0
    assert repro("rm", linked, "--yes", cwd=tmp_path).returncode == 0
    assert kept._folders("../../precious") == []
    assert len([path for path in precious.rglob("*") if path.is_file()]) >= 2
    assert (precious / "artifacts" / "checkpoints" / "thesis.txt").read_text() == "mine"
