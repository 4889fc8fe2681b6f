"""The commands `bench` and `ui`."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from repro.cli.app import app
from repro.cli.options import AsJson
from repro.terminal import table


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Experiments; all if not given.")] = None,
    threads: Annotated[
        list[int] | None, typer.Option(metavar="N", help="CPU threads; may be repeated. 1 and 2 if not given.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Timed rounds.")] = 7,
    precision: Annotated[
        Literal["float32", "mixed"], typer.Option(help="Precision of this project's training step.")
    ] = "float32",
    peer_python: Annotated[
        Path | None,
        typer.Option(metavar="PATH", envvar="REPRO_BENCH_PYTHON_TF", help="A Python with TensorFlow and JAX."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Time a step or two only, to see that it works.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare training speed with PyTorch, TensorFlow and JAX.

    The programs take turns on the same cores.
    """
    from repro.benchmarks import driver, report

    chosen = driver.QUICK if quick else driver.Options(rounds=rounds)
    options = dataclasses.replace(chosen, precision=precision, peer_python=peer_python)
    found = report.bench(names or [], threads or [], options, lambda text: print(text, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(report.headline(found))
    for title, rows, remarks in report.tables(found):
        print(f"\n{title}")
        table(rows)
        print(remarks)


@app.command("ui")
def ui_(
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="N", help="Port on 127.0.0.1.")] = 5000,
) -> int:
    """Open the MLflow UI on the tracked runs, for this machine only."""
    from repro.tracking import ui

    return ui.serve(port)
