"""Crashes, a locked store and damaged files, done to the real command: what was measured is all there in the end."""

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from support.finished_runs import STAND_IN, finished, only_run, recorded
from support.process import client, repro, started, wait_for

from repro import names
from repro.runs import run_dir
from repro.training import checkpoint


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills_at_random_instants_change_nothing(tmp_path: Path) -> None:
    options = ["--epochs", "150", *STAND_IN]
    alone = finished(tmp_path / "alone", *options)
    folder, dice, kills = tmp_path / "killed", random.Random(2), 0
    folder.mkdir()
    while kills < 20:
        (folder / "output.txt").write_text("")
        process = started("run", "mnist_fc", *options, "--resume", cwd=folder)
        wait_for("steps", folder)
        time.sleep(dice.uniform(0, 1.2))
        assert process.poll() is None, "the run was over before it was killed often enough"
        process.kill()
        process.wait()
        kills += 1
    process = started("run", "mnist_fc", *options, "--resume", cwd=folder)
    assert process.wait(300) == 0, (folder / "output.txt").read_text()
    assert recorded(client(folder), only_run(folder)) == alone


@pytest.mark.slow
def test_damaged_checkpoints_are_named_and_passed_over(tmp_path: Path) -> None:
    options = ["--epochs", "30", *STAND_IN]
    alone = finished(tmp_path / "alone", *options)
    folder = tmp_path / "damaged"
    folder.mkdir()
    process = started("run", "mnist_fc", *options, cwd=folder)
    wait_for("epoch    5/30", folder)
    process.kill()
    process.wait()
    run_id = only_run(folder)
    older, newest = sorted((folder / "mlruns" / "runs" / run_id / "checkpoints").glob("epoch-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-7])
    both = {path: path.read_bytes() for path in (older, newest)}
    older.write_bytes(b"")
    process_ = repro("resume", run_id, cwd=folder)
    assert process_.returncode == 1
    assert "no checkpoint left that can be used" in process_.stdout + process_.stderr
    older.write_bytes(both[older])
    again = repro("resume", run_id[:9], cwd=folder)
    assert again.returncode == 0, again.stderr
    assert newest.name in again.stderr
    assert "an older one is used" in again.stderr
    assert recorded(client(folder), run_id) == alone


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_locked_store_stops_no_training_and_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path
    process = started("run", "mnist_fc", "--epochs", "40", *STAND_IN, cwd=folder)
    wait_for("epoch    3/40", folder)
    with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db", timeout=30)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert process.wait(400) == 1
    printed = (folder / "output.txt").read_text()
    assert "epoch   40/40" in printed
    assert "Traceback" not in printed
    assert repro("sync", cwd=folder).returncode == 0
    found = recorded(client(folder), only_run(folder))
    assert [step for step, _ in found["metrics"][names.COST]] == list(range(1, 41))


def test_a_finished_run_is_verified_and_a_changed_record_is_found_out(tmp_path: Path, small_file: Path) -> None:
    process = repro("run", str(small_file), *STAND_IN, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    run_id = only_run(tmp_path)
    same = repro("verify", run_id[:8], cwd=tmp_path)
    assert (same.returncode, "3 of 3 epochs: bit-identical" in same.stdout) == (0, True)
    with closing(sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")) as store:
        store.execute("UPDATE metrics SET value = value * 1.0000001 WHERE key = 'train/cost' AND step = 2")
        store.commit()
    near = repro("verify", run_id, cwd=tmp_path)
    assert (near.returncode, "equal within float tolerance" in near.stdout) == (0, True)
    assert "first epoch that differs: 2" in near.stdout
    with closing(sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")) as store:
        store.execute("UPDATE metrics SET value = value + 5 WHERE key = 'train/cost' AND step = 2")
        store.commit()
    other = repro("verify", run_id, cwd=tmp_path)
    assert (other.returncode, "2 of 3 epochs: different" in other.stdout) == (1, True)


def test_a_changed_spec_is_not_resumed(tmp_path: Path, small_file: Path) -> None:
    assert repro("run", str(small_file), *STAND_IN, cwd=tmp_path).returncode == 0
    changed = repro("run", str(small_file), *STAND_IN, "--resume", "--set", "optim.lr=0.002", cwd=tmp_path)
    assert changed.returncode == 2
    assert "optim.lr: was 0.001, is 0.002" in changed.stderr
    small_file.write_text(small_file.read_text().replace("Dense(16),), latent=3", "Dense(17),), latent=3"))
    (tmp_path / "mlruns" / "runs" / only_run(tmp_path) / "summary.json").unlink()
    edited = repro("resume", only_run(tmp_path), cwd=tmp_path)
    assert edited.returncode == 2
    assert "model.encoder: was" in edited.stderr


def test_a_run_that_another_process_works_on_is_left_alone(tmp_path: Path, small_file: Path) -> None:
    assert repro("run", str(small_file), *STAND_IN, cwd=tmp_path).returncode == 0
    (tmp_path / "mlruns" / "runs" / only_run(tmp_path) / "summary.json").unlink()
    with run_dir.locked(only_run(tmp_path)):
        second = repro("resume", only_run(tmp_path), cwd=tmp_path)
    assert (second.returncode, "another process" in second.stderr) == (1, True)


def test_no_checkpoint_is_ever_unpickled(tmp_path: Path) -> None:
    bomb = tmp_path / "epoch-000001.safetensors"
    bomb.write_bytes(b"cposix\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR.")
    state, faults = checkpoint.newest(tmp_path, "0" * 12, 0)
    assert state is None
    assert len(faults) == 1
    assert not (tmp_path / "owned").exists()
