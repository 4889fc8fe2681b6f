"""A peer as a process that stays warm and trains on request."""

import json
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from repro.benchmarks.peers.workload import Request

FOLDER = Path(__file__).parent
"""The directory in which `python -m peers.serve` is found, in any Python."""
NOT_INSTALLED = 3  # exit code of `serve.py` for a library that cannot be imported
DEADLINE = 180.0  # seconds for one answer; none takes more than some tens
Answer = dict[str, Any]


class PeerError(Exception):
    """Raised where a peer cannot go on. `status` is `not installed` or `failed`."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class PeerProcess:
    """Run the peer `name` with a Python; without a request it only says its versions. `close` ends it at once."""

    def __init__(self, name: str, python: str = sys.executable, request: Request | None = None) -> None:
        self.python = python
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        command, pipe = [python, "-m", "peers.serve", name, *(() if request else ("--check",))], subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=FOLDER, stdin=pipe, stdout=pipe, stderr=self.errors, text=True)
        if request:
            self._send(request.to_json())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with suppress(BrokenPipeError):  # it ended before it read its input
                if stream:
                    stream.close()

    def ask(self, line: str) -> Answer:
        """Send a line, which `peers/serve.py` describes, and return the answer. Raises PeerError as `answer` does."""
        self._send(line)
        return self.answer()

    def answer(self) -> Answer:
        """Return the next answer. Raises PeerError if the process ends, or does not answer within the deadline."""
        assert self.process.stdout
        deadline = threading.Timer(DEADLINE, self.process.kill)
        deadline.daemon = True  # so that an interrupt here does not wait for it
        try:
            deadline.start()
            found = next((answer for answer in self.process.stdout if answer.startswith("{")), None)
        finally:
            deadline.cancel()
        if found is None:
            raise self._ended()
        values: Answer = json.loads(found)
        return values

    def _send(self, line: str) -> None:
        assert self.process.stdin
        with suppress(BrokenPipeError):  # `answer` raises the reason
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
    with closing(PeerProcess(name, python)) as peer:
        found: dict[str, str] = peer.answer()["versions"]
        return found
