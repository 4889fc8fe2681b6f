"""A peer as a process that stays warm and trains when it is told to."""

import json
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.benchmarks.peers.protocol import NOT_INSTALLED

ROOT = Path(__file__).resolve().parents[1]
DEADLINE = 180.0  # seconds for one answer; none takes more than some tens
REMEDY = "pip install '.[bench]'"


class PeerError(Exception):
    """A peer that cannot go on: `status` is `not installed` or `failed`."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """What a peer says of one turn."""

    seconds: float
    steps: int
    values: dict[str, Any]

    @property
    def step_seconds(self) -> float:
        """Seconds for a step."""
        return self.seconds / self.steps


class Contestant:
    """Starts a module of `benchmarks.peers` with some Python. `close` ends it, whatever it is doing."""

    def __init__(self, module: str, arguments: list[str], python: str = sys.executable) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [python, "-m", module, *arguments, "--serve"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def close(self) -> None:
        """End the process and wait until it has ended."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with suppress(BrokenPipeError):  # it ended before it read what it was told
                if stream:
                    stream.close()

    def ask(self, line: str) -> Answer:
        """Have it do what a line says; see `protocol`. Raises PeerError if it has ended or does not answer."""
        assert self.process.stdin and self.process.stdout
        deadline = threading.Timer(DEADLINE, self.process.kill)
        deadline.start()
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            found = next((answer for answer in self.process.stdout if answer.startswith("{")), None)
        except BrokenPipeError:
            found = None
        finally:
            deadline.cancel()
        if found is None:
            raise self._ended()
        values = json.loads(found)
        return Answer(values["seconds"], values["steps"], values)

    def _ended(self) -> PeerError:
        code = self.process.wait()
        if code == NOT_INSTALLED:
            return PeerError("not installed", f"not installed: {REMEDY}")
        if code == -signal.SIGKILL:
            return PeerError("failed", f"killed: out of memory, or no answer within {DEADLINE:.0f} s")
        self.errors.seek(0)
        said = [line for line in self.errors.read().splitlines() if line.strip()]
        return PeerError("failed", said[-1].strip() if said else f"ended with exit code {code}")
