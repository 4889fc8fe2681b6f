"""Crashes, outages, full disks and crowds, done to the real command: what was measured is all there in the end."""

import json
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support.process import client, environment, fetched, free_port, repro, started, wait_for

from repro import names
from repro.runs import run_dir
from repro.tracking import artifacts, layout, reader
from repro.training import checkpoint

TRAINED = (names.COST, names.RECONSTRUCTION, names.KL, names.HELDOUT_NEG_ELBO)
STAND_IN = ["--data", "stand-in", "--threads", "1"]


def recorded(store: MlflowClient, run_id: str) -> dict[str, Any]:
    """All that must be the same after a crash: every epoch's metrics, the pictures, the final weights, the end."""
    run = store.get_run(run_id)
    pictures = [item.path for item in store.list_artifacts(run_id, "images") if item.path.endswith(".png")]
    return {
        "status": run.info.status,
        "weights": run.data.tags[names.WEIGHTS_SHA256],
        "test": [
            layout.metrics(run.data)[name] for name in (names.TEST_NEG_ELBO, names.TEST_RECONSTRUCTION, names.TEST_KL)
        ],
        "pictures": sorted(tuple(path.split("+")[:3:2]) for path in pictures),
        "by epoch": sorted(item.path for item in store.list_artifacts(run_id, names.BY_EPOCH)),
        "metrics": {
            name: [(point.step, point.value) for point in layout.points(store, run_id, name)] for name in TRAINED
        },
    }


def run_ids(folder: Path) -> list[str]:
    return [path.name for path in (folder / "mlruns" / "runs").iterdir()]


def only_run(folder: Path) -> str:
    (run_id,) = run_ids(folder)
    return run_id


def finished(folder: Path, *options: str) -> dict[str, Any]:
    """A run left alone."""
    folder.mkdir()
    process = repro("run", "mnist_fc", *options, cwd=folder)
    assert process.returncode == 0, process.stderr
    return recorded(client(folder), only_run(folder))


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


@contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    """An MLflow server on loopback, gone when the block ends."""
    options = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "files")]
    command = [sys.executable, "-m", "mlflow", "server", *options, "--host", "127.0.0.1", "--port", str(port)]
    silent: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    settings = environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen([*command, "--workers", "1"], env=settings, cwd=folder, **silent)
    try:
        fetched(f"http://127.0.0.1:{port}/health", seconds=120)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_goes_away_in_mid_run_gets_everything_in_the_end(tmp_path: Path) -> None:
    alone = finished(tmp_path / "alone", "--epochs", "60", *STAND_IN)
    folder, port = tmp_path / "outage", free_port()
    folder.mkdir()
    address = f"http://127.0.0.1:{port}"
    with server(folder, port):
        process = started("run", "mnist_fc", "--epochs", "60", *STAND_IN, cwd=folder, MLFLOW_TRACKING_URI=address)
        wait_for("epoch    3/60", folder)
    assert process.wait(400) == 1, "it says by its exit code that something could not be delivered"
    printed = (folder / "output.txt").read_text()
    assert "epoch   60/60" in printed, "training went on"
    assert "Traceback" not in printed
    run_id = only_run(folder)
    assert f"are kept in {folder / 'mlruns' / 'runs' / run_id}" in printed
    assert "python -m repro sync" in printed
    with server(folder, port):
        done = subprocess.run(
            [sys.executable, "-m", "repro", "sync"],
            cwd=folder,
            env=environment() | {"MLFLOW_TRACKING_URI": address},
            check=False,
        )
        assert done.returncode == 0
        assert recorded(MlflowClient(tracking_uri=address), run_id) == alone


@contextmanager
def silent_server(port: int) -> Iterator[None]:
    """A server that accepts connections and never answers, gone when the block ends."""
    end = time.monotonic() + 60
    while True:
        try:
            listening = socket.create_server(("127.0.0.1", port), backlog=1000)
            break
        except OSError:  # the processes of the server before it are still ending
            assert time.monotonic() < end
            time.sleep(0.1)
    with listening:
        yield


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("from_the_start", [True, False])
def test_training_does_not_wait_for_a_server_that_never_answers(tmp_path: Path, from_the_start: bool) -> None:
    """All epochs are trained and in the journal while it is silent, and a server that answers is given all of them."""
    alone = finished(tmp_path / "alone", "--epochs", "40", *STAND_IN)
    folder, port = tmp_path / "silent", free_port()
    folder.mkdir()
    address = f"http://127.0.0.1:{port}"
    command = ["run", "mnist_fc", "--epochs", "40", *STAND_IN]
    with nullcontext() if from_the_start else server(folder, port):
        if not from_the_start:
            process = started(*command, cwd=folder, MLFLOW_TRACKING_URI=address)
            wait_for("epoch    3/40", folder)
    with silent_server(port):
        if from_the_start:
            process = started(*command, cwd=folder, MLFLOW_TRACKING_URI=address)
        assert process.wait(400) == 1, "it says by its exit code that something could not be delivered"
    printed, run_id = (folder / "output.txt").read_text(), only_run(folder)
    assert "the tracking store does not answer, training goes on" in printed
    assert "epoch   40/40" in printed
    assert "later: python -m repro sync" in printed
    assert "Traceback" not in printed
    journal = [json.loads(line) for line in (folder / "mlruns/runs" / run_id / "journal.jsonl").open()]
    assert [record["step"] for record in journal if record.get("group") == "epoch"] == list(range(1, 41))
    with server(folder, port), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", address)
        assert repro("sync", cwd=folder).returncode == 0
        assert reader.run(run_id).params[names.SEED] == "0", "the run is known by its own id"
        assert recorded(MlflowClient(tracking_uri=address), reader.store_id(run_id)) == alone
        assert artifacts.read_file(run_id, names.SPEC_FILE)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_three_processes_with_one_server_share_the_seeds(tmp_path: Path, small_file: Path) -> None:
    """One of them is killed and started again. Every seed is trained once."""
    folders, port = [tmp_path / name for name in "abc"], free_port()
    address = f"http://127.0.0.1:{port}"
    command = ["run", "small.py", "--seeds", "0-11", "--epochs", "8", *STAND_IN]
    with server(tmp_path, port):
        for folder in folders:
            folder.mkdir()
            shutil.copy(small_file, folder)
        running = [started(*command, cwd=folder, MLFLOW_TRACKING_URI=address) for folder in folders]
        wait_for("epoch    3/8", folders[0], seconds=400)
        running[0].kill()
        running[0].wait()
        running[0] = started(*command, cwd=folders[0], MLFLOW_TRACKING_URI=address)
        for process, folder in zip(running, folders, strict=True):
            assert process.wait(1200) == 0, (folder / "output.txt").read_text()
        store = MlflowClient(tracking_uri=address)
        found = store.search_runs([store.get_experiment_by_name("small").experiment_id])
        runs = [run for run in found if names.KIND not in run.data.tags]
        assert sorted(int(run.data.params[names.SEED]) for run in runs) == list(range(12))
        assert {run.info.status for run in runs} == {"FINISHED"}
        assert all(len(layout.points(store, run.info.run_id, names.COST)) == 8 for run in runs)
        assert all(list((folder / "mlruns/runs").iterdir()) for folder in folders), "each of them trained some"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", address)
            gathered = repro(*command, "--json", cwd=folders[0])
    assert [run["status"] for run in json.loads(gathered.stdout)["runs"]] == ["FINISHED"] * 12


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_comes_back_during_the_run_is_not_noticed_in_the_result(tmp_path: Path) -> None:
    folder, port = tmp_path, free_port()
    address = f"http://127.0.0.1:{port}"
    with server(folder, port):
        process = started("run", "mnist_fc", "--epochs", "400", *STAND_IN, cwd=folder, MLFLOW_TRACKING_URI=address)
        wait_for("epoch    3/400", folder)
    wait_for("does not answer", folder)
    with server(folder, port):
        assert process.wait(800) == 0, (folder / "output.txt").read_text()
        assert "answers again" in (folder / "output.txt").read_text()
        found = recorded(MlflowClient(tracking_uri=address), only_run(folder))
    assert [step for step, _ in found["metrics"][names.COST]] == list(range(1, 401))
    assert found["status"] == "FINISHED"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="a full disk is played with prlimit, which Linux has")
@pytest.mark.parametrize("freed", [True, False])
def test_a_full_disk_stops_no_training_and_loses_nothing(tmp_path: Path, freed: bool) -> None:
    """No file may grow beyond a kilobyte for a while: checkpoints, journal and store are all refused."""
    alone = finished(tmp_path / "alone", "--epochs", "80", *STAND_IN)
    folder = tmp_path / "full"
    folder.mkdir()
    process = started("run", "mnist_fc", "--epochs", "80", *STAND_IN, cwd=folder)
    wait_for("epoch    3/80", folder)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    time.sleep(1.5)
    printed_then = (folder / "output.txt").read_text()
    if freed:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert process.wait(300) == 0, (folder / "output.txt").read_text()
    else:
        assert process.wait(300) == 1
        assert repro("resume", only_run(folder), cwd=folder).returncode == 0
    assert "Traceback" not in (folder / "output.txt").read_text()
    assert recorded(client(folder), only_run(folder)) == alone
    assert printed_then


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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_runs_at_once_share_a_fresh_store(tmp_path: Path) -> None:
    options = ["run", "mnist_fc", "--epochs", "5", *STAND_IN]
    folders = [tmp_path for _ in range(8)]
    running = [started(*options, "--seed", str(seed), cwd=folder) for seed, folder in enumerate(folders)]
    assert [process.wait(600) for process in running] == [0] * 8, (tmp_path / "output.txt").read_text()
    store = client(tmp_path)
    runs = [store.get_run(run_id) for run_id in run_ids(tmp_path)]
    assert sorted(run.data.params[names.SEED] for run in runs) == [str(seed) for seed in range(8)]
    for run in runs:
        found = recorded(store, run.info.run_id)
        assert found["status"] == "FINISHED"
        assert all([step for step, _ in points] == [1, 2, 3, 4, 5] for points in found["metrics"].values())


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
    state, faults = checkpoint.newest(tmp_path, "0" * 12)
    assert state is None
    assert len(faults) == 1
    assert not (tmp_path / "owned").exists()
