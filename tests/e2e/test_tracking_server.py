"""A tracking server that goes away, comes back, never answers, or is shared: nothing is lost or done twice."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from select import select
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import pytest
from mlflow import MlflowClient
from support.finished_runs import STAND_IN, finished, only_run, recorded
from support.process import client, environment, fetched, free_port, repro, started, wait_for

from repro import names
from repro.tracking import artifacts, layout, reader


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


class Proxy(ThreadingTCPServer):
    """Stands before a server. While `fault` is set, it gives that in place of an answer, and resets a connection."""

    daemon_threads = True
    fault: bytes | None = None

    def __init__(self, port: int, server_port: int) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.server_port = server_port

    def __enter__(self) -> "Proxy":
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Connection(BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.server_port)) as there:
            while True:
                for ready in select([there, self.request], [], [])[0]:
                    sent = ready.recv(2**16)
                    if not sent:
                        return
                    if self.server.fault is not None:
                        self.request.sendall(self.server.fault)
                        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        return
                    (there if ready is self.request else self.request).sendall(sent)


FAULTS = {
    "500": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\n\r\nsorry",
    "HTML": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 28\r\n\r\n<html>Please log in.</html>\r\n",
    "half an answer": b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"experi',
    "a reset": b"",
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_answers_wrongly_for_a_while_gets_everything_in_the_end(tmp_path: Path, small_file: Path) -> None:
    """A run for each fault, which begins in mid-run and lasts until the run has noticed it."""
    command, server_port, alone = ["run", "small.py", "--epochs", "100", *STAND_IN], free_port(), tmp_path / "alone"
    alone.mkdir()
    shutil.copy(small_file, alone)
    assert repro(*command, cwd=alone).returncode == 0
    expected = recorded(client(alone), only_run(alone))
    with server(tmp_path, server_port):
        for name, fault in FAULTS.items():
            folder, port = tmp_path / name, free_port()
            folder.mkdir()
            shutil.copy(small_file, folder)
            with Proxy(port, server_port) as proxy:
                process = started(*command, cwd=folder, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
                wait_for("epoch    3/100", folder, seconds=400)
                proxy.fault = fault
                wait_for("does not answer, training goes on", folder)
                proxy.fault = None
                code, printed = process.wait(300), (folder / "output.txt").read_text()
            assert (code, "Traceback" in printed) == (0, False), (name, printed)
            direct = MlflowClient(tracking_uri=f"http://127.0.0.1:{server_port}")
            assert recorded(direct, only_run(folder)) == expected, name
