"""Runs whose process was killed: none stays RUNNING, none is lost, none is there twice."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run, ViewType
from support.process import client, repro

from repro import names
from repro.runs import ids, kept, recover, run_dir, runner
from repro.tracking import outbox, reader, store

RUN = ["run", "small.py", "--data", "stand-in", "--threads", "1"]


class KilledError(BaseException):
    """Stands for the instant at which a process is killed."""


def killed(*_: Any, **__: Any) -> None:
    raise KilledError


@pytest.fixture
def folder(small_file: Path) -> Path:
    return small_file.parent


def grow_old() -> None:
    """Set the times of all files of the runs back, so that their processes are taken for gone."""
    long_ago = time.time() - 2 * recover.SILENT
    for path in sorted(ids.root().rglob("*"), reverse=True):
        os.utime(path, (long_ago, long_ago))


def all_runs(folder: Path) -> list[Run]:
    found = client(folder)
    every = [each.experiment_id for each in found.search_experiments()]
    return list(found.search_runs(every, run_view_type=ViewType.ALL))


def killed_at(patched: Any, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(patched, name, killed)
        patch.setattr(runner.RunWriter, "start", lambda _: None)  # its thread would outlive it here
        with pytest.raises(KilledError):
            repro(*RUN, cwd=folder)


@pytest.mark.parametrize("instant", [(run_dir, "rename"), (runner.RunWriter, "begun"), (runner, "_Run")])
def test_a_run_killed_while_it_is_created_goes_on_by_the_same_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, instant: tuple[Any, str]
) -> None:
    killed_at(*instant, folder, monkeypatch)
    assert [run.info.status for run in all_runs(folder)] == ["RUNNING"]
    assert repro(*RUN, "--resume", cwd=folder).returncode == 0
    (run,) = all_runs(folder)
    assert run.info.status == "FINISHED"
    (run_id,) = ids.here()
    assert reader.own_id(run) == run_id
    assert "spec.json" in {item.path for item in client(folder).list_artifacts(run.info.run_id)}
    assert repro("evaluate", run_id, "--images", "10", "--samples", "2", "--draws", "2", cwd=folder).returncode == 0


@pytest.mark.parametrize("instant", [(run_dir, "rename"), (runner.RunWriter, "begun"), (runner._Run, "train")])
def test_any_later_command_marks_a_run_without_a_process_as_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, instant: tuple[Any, str]
) -> None:
    monkeypatch.setattr(runner._Run, "close", killed)
    killed_at(*instant, folder, monkeypatch)
    assert "running" not in repro("runs", "--state", "killed", cwd=folder).stdout
    assert [run.info.status for run in all_runs(folder)] == ["RUNNING"], "it may have been silent for a moment only"
    grow_old()
    listed = repro("runs", "--state", "killed", cwd=folder)
    (run,) = all_runs(folder)
    assert run.info.status == "KILLED"
    assert run.data.tags[names.ERROR] == recover.REASON
    assert run.data.tags[names.CAUSE] == names.VANISHED
    assert reader.own_id(run)[:8] in listed.stdout


def test_a_run_killed_before_it_was_created_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for instant in ((run_dir, "save_config"), (runner, "start_run")):
        killed_at(*instant, folder, monkeypatch)
    assert len(list(ids.root().iterdir())) == 2
    grow_old()
    assert repro("runs", cwd=folder).returncode == 0
    assert not list(ids.root().iterdir())
    assert not all_runs(folder)


def test_a_run_that_a_process_holds_is_not_marked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_at(runner, "_Run", folder, monkeypatch)
    grow_old()
    (run_id,) = ids.here()
    with run_dir.locked(run_id):
        repro("runs", cwd=folder)
    assert [run.info.status for run in all_runs(folder)] == ["RUNNING"]


def test_prune_ends_a_run_that_has_lost_its_directory(folder: Path) -> None:
    with store.Client("") as made:
        run_id = made.create_run(store.experiment_id(made, "small"), start_time=1).info.run_id
        recent = made.create_run(store.experiment_id(made, "small")).info.run_id
    assert [each.run_id for each in kept.waste()] == [run_id]
    assert repro("prune", "--yes", cwd=folder).returncode == 0
    assert reader.run(run_id).status == "KILLED"
    assert reader.run(recent).status == "RUNNING", "it may be trained elsewhere"
    assert not kept.waste()


def test_a_file_that_is_written_again_while_the_store_is_away_is_sent_once(tmp_path: Path) -> None:
    box = outbox.Outbox(tmp_path)
    for _ in range(2):
        (box.files / "a.png").write_text("a picture")
        box.append({"kind": "file", "file": "a.png", "folder": None})
    assert box.is_replaced(box.pending()[0])
    box.mark_delivered()
    box.tidy()
    assert not box.is_replaced(box.pending()[0])
    assert (box.files / "a.png").exists()
    box.mark_delivered()
    box.tidy()
    assert not list(box.files.iterdir())
