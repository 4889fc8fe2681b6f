"""Starting the MLflow UI on the store, for this machine only."""

import os
import signal
import socket
import subprocess
import sys

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
    open_client()  # corrects the store's addresses if its folder was moved
    address = f"http://{HOST}:{port}/#/experiments?workflowType=machine_learning"
    print(f"MLflow UI: {address}  in some seconds; Ctrl-C ends it", flush=True)
    server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri(), "--host", HOST]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [*server, "--port", str(port), "--workers", "1"]
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have started this process with Ctrl-C ignored
        signal.signal(number, signal.default_int_handler)
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGTERM)  # the server and the workers it started
            return 130
