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

from repro.benchmarks.peers.plan import Request

SERVE = Path(__file__).with_name("peers") / "serve.py"
NOT_INSTALLED = 3  # exit code of `serve.py` for a library that cannot be imported
DEADLINE = 180.0  # seconds for one answer; none takes more than some tens


class PeerError(Exception):
    """A peer that cannot go on: `status` is `not installed` or `failed`."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """What a peer says about the steps it was asked for."""

    seconds: float
    steps: int
    values: dict[str, Any]

    @property
    def step_seconds(self) -> float:
        """Seconds for one step."""
        return self.seconds / self.steps


class PeerProcess:
    """Run the peer `name` with some Python. `close` ends it, whatever it is doing."""

    def __init__(self, name: str, python: str = sys.executable, *options: str) -> None:
        self.python = python
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [python, str(SERVE), name, *options],
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

    def prepare(self, request: Request) -> None:
        """Say what is to be trained."""
        self._tell(request.to_json())

    def ask(self, line: str) -> Answer:
        """Have it do what `line` says; see `peers/serve.py`. Raises PeerError if it has ended or does not answer."""
        self._tell(line)
        values = self.answer()
        return Answer(values["seconds"], values["steps"], values)

    def answer(self) -> dict[str, Any]:
        """Return the next answer. Raises PeerError if the process ends, or says nothing within the deadline."""
        assert self.process.stdout
        deadline = threading.Timer(DEADLINE, self.process.kill)
        deadline.daemon = True  # an interrupt while it starts must not leave this process waiting for it
        try:
            deadline.start()
            found = next((answer for answer in self.process.stdout if answer.startswith("{")), None)
        finally:
            deadline.cancel()
        if found is None:
            raise self._ended()
        values: dict[str, Any] = json.loads(found)
        return values

    def _tell(self, line: str) -> None:
        assert self.process.stdin
        with suppress(BrokenPipeError):  # the answer that does not come says why
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def _ended(self) -> PeerError:
        code = self.process.wait()
        if code == -signal.SIGKILL:
            return PeerError("failed", f"killed: out of memory, or no answer within {DEADLINE:.0f} s")
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        last = lines[-1] if lines else f"ended with exit code {code}"
        if code == NOT_INSTALLED:
            return PeerError("not installed", f"not installed: {last} ({self.python})")
        return PeerError("failed", last)


def versions(name: str, python: str) -> dict[str, str]:
    """Return the versions of the libraries that a peer needs. Raises PeerError if one cannot be imported."""
    peer = PeerProcess(name, python, "--check")
    try:
        found: dict[str, str] = peer.answer()["versions"]
        return found
    finally:
        peer.close()
