"""The MLflow UI on the store, for this machine only, behind a start page of our own.

MLflow's UI opens in its mode for language models, and keeps the mode in the browser's local storage, which only a page
of the same origin can set. The start page sets it, and links to the runs.
"""

import json
import logging
import os
import signal
import socket
import warnings
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode

import jinja2
from mlflow.entities import Run

from repro import names
from repro.errors import ReproError
from repro.text import plural
from repro.tracking import reader
from repro.tracking.store import Client, embedded, open_client, shown_uri, uri

HOST, START, REPORT = "127.0.0.1", "/start", "/report"
PAGE = Path(__file__).with_name("start.html.j2")


class Link(NamedTuple):
    text: str
    address: str
    about: str = ""


class Group(NamedTuple):
    """An MLflow experiment: the link to its runs, and those to what its parent runs hold together."""

    runs: Link
    parents: list[Link]


def serve(port: int, report: Path, in_browser: bool) -> int:
    """Serve the UI, and the report if there is one, until interrupted; return the exit code.

    `in_browser` opens the start page in the user's browser. Raises ReproError if the server cannot start.
    """
    database = embedded()
    if database is None and uri().startswith(("http://", "https://")):
        print(f"the runs are on the server that MLFLOW_TRACKING_URI names: open {shown_uri()}")
        return 0
    if database is not None and not database.exists():
        raise ReproError(f"no runs yet: {database} does not exist; start with: python -m repro run mnist_fc")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()  # a browser that is opened now waits for the first answer
    except OSError as error:
        raise ReproError(f"port {port} cannot be used: {error.strerror}; try --port {port % 65535 + 1}") from None
    address = f"http://{HOST}:{port}{START}"
    print(f"MLflow UI: {address}  in some seconds; Ctrl-C ends it", flush=True)
    if in_browser:
        webbrowser.open(address)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have started this process with Ctrl-C ignored
        signal.signal(number, signal.default_int_handler)
    try:
        _serve(listener, report)
    except KeyboardInterrupt:
        return 130
    return 0


def _serve(listener: socket.socket, report: Path) -> None:
    """Run MLflow's server with two more pages."""
    import uvicorn  # noqa: PLC0415 - the server takes seconds to import

    open_client()  # corrects the store's addresses if its folder was moved
    os.environ["MLFLOW_TRACKING_URI"] = uri()  # or the server makes a store of its own, too
    warnings.simplefilter("ignore")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    from flask import send_from_directory  # noqa: PLC0415
    from mlflow.server import app as pages  # noqa: PLC0415
    from mlflow.server.fastapi_app import app  # noqa: PLC0415

    pages.add_url_rule(START, "repro_start", lambda: start_page(report))
    pages.add_url_rule(REPORT, "repro_report", lambda: send_from_directory(report.parent.resolve(), report.name))
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


def start_page(report: Path) -> str:
    """Return the start page as HTML. Raises StoreError if the store cannot be read."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    there = Link("the report", REPORT, str(report)) if report.exists() else None
    template = environment.from_string(PAGE.read_text(encoding="utf-8"))
    return template.render(groups=groups(), report=there, store=shown_uri())


def groups() -> list[Group]:
    """Return the MLflow experiments that have runs, by name, with links to their pages. Raises StoreError."""
    found = []
    with Client("the runs cannot be listed") as client:
        for experiment in sorted(client.search_experiments(), key=lambda each: each.name):
            number = experiment.experiment_id
            runs = [run for run in reader.search(client, number) if names.INCOMPLETE not in run.data.tags]
            trained = [run for run in runs if names.KIND not in run.data.tags]
            if trained:
                finished = sum(run.info.status == "FINISHED" for run in trained)
                about = f"{plural(len(trained), 'run')}, {finished} finished"
                links = [link for run in runs for link in _of_parent(run, trained)]
                found.append(Group(Link(experiment.name, f"/#/experiments/{number}/runs", about), links))
    return found


def _of_parent(parent: Run, trained: list[Run]) -> Iterator[Link]:
    """Yield the links to what a parent run, of seeds or of a study, holds together; none for a trained run."""
    tags, number = parent.data.tags, parent.info.experiment_id
    children = [run.info.run_id for run in trained if run.data.tags.get(names.PARENT) == parent.info.run_id]
    chosen = urlencode({"runs": json.dumps(children), "experiments": json.dumps([number])}, quote_via=quote)
    compared = f"/#/compare-runs?{chosen}"
    match tags.get(names.KIND):
        case names.KIND_SEEDS if children:
            yield Link(f"seeds {tags[names.SEEDS]} compared", compared)
        case names.KIND_SWEEP if children:
            yield Link(f"study {tags[names.SWEEP]}: {plural(len(children), 'run')} of its trials compared", compared)
            artifacts = f"/#/experiments/{number}/runs/{parent.info.run_id}/artifacts"
            yield Link(f"study {tags[names.SWEEP]}: its plots", artifacts)
