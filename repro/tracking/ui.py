"""Starting the MLflow UI on the store, for this machine only."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from repro.errors import ReproError
from repro.tracking.store import embedded, open_client, shown_uri, uri

HOST = "127.0.0.1"


def serve(port: int) -> int:
    """Serve the UI until it is interrupted; return the server's exit code. Raises ReproError if it cannot start."""
    database = embedded()
    if database is None and uri().startswith(("http://", "https://")):
        print(f"the runs are on the server that MLFLOW_TRACKING_URI names: open {shown_uri()}")
        return 0
    if database is not None and not database.exists():
        raise ReproError(f"no runs yet: {database} does not exist; start with: python -m repro run mnist_fc")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ReproError(f"port {port} cannot be used: {error.strerror}; try --port {port % 65535 + 1}") from None
    open_client()  # mends the store's addresses if its folder was moved
    print(
        f"MLflow UI: http://{HOST}:{port}/#/experiments?workflowType=machine_learning  in some seconds; Ctrl-C ends it",
        flush=True,
    )
    server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri(), "--host", HOST]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [*server, "--port", str(port), "--workers", "1"]
    with _ended_by_signals(), subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGTERM)  # the server and the workers it started
            return 130


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """KeyboardInterrupt for Ctrl-C and SIGTERM, also where a shell started this process with Ctrl-C ignored."""
    both = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in both}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
