"""The real command, in this process or in one of its own, for the tests that run it end to end."""

import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from mlflow import MlflowClient

from repro import cli

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "REPRO_OFFLINE": "1"}


def repro(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which has made the imports that take seconds."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setenv("REPRO_OFFLINE", "1")
        patch.setattr(sys, "argv", ["repro", *arguments])  # which the store is told
        code = cli.main(list(arguments))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def in_a_process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "repro", *arguments]
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def client(folder: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")


def started(*arguments: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    """The command, running, with both its outputs in `cwd/output.txt`."""
    with (cwd / "output.txt").open("a") as output:
        command = [sys.executable, "-m", "repro", *arguments]
        return subprocess.Popen(command, cwd=cwd, env=environment() | variables, stdout=output, stderr=output)


def wait_for(text: str, folder: Path, seconds: float = 120) -> None:
    """Until `folder/output.txt` has that text."""
    end = time.monotonic() + seconds
    while text not in (folder / "output.txt").read_text():
        assert time.monotonic() < end, f"no {text!r} in {(folder / 'output.txt').read_text()}"
        time.sleep(0.02)


def free_port() -> int:
    """A port on loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetched(address: str, seconds: float) -> str:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
