"""Commands that show the experiments and the data, and time the training step."""

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from repro.cli.options import AsJson, DataDir, Name, Names, Precision, app, examples, number
from repro.spec import registry
from repro.spec.overrides import FIXED
from repro.terminal import UNLIMITED, table, wrapped


@app.command("list", epilog=examples("list", "list --json"))
def list_(as_json: AsJson = False) -> None:
    """List the experiments with their reported costs."""
    rows = [_overview(registry.get(name)) for name in registry.names()]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        table([_as_text(row) for row in rows], spare=("latent", "batch_size", "learning_rate"))


@app.command(epilog=examples("show mnist_fc", "show ./my_vae.py --json"))
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one experiment and every setting that --set can change."""
    from repro.model import count_parameters

    entry = registry.get(name)
    overview = _overview(entry) | {"parameters": count_parameters(entry.spec)}
    if as_json:
        print(json.dumps(overview | {"spec": entry.spec.to_dict(), "signature": entry.spec.signature}, indent=2))
        return
    print(*(wrapped(line, most=UNLIMITED) for line in (entry.about or entry.name).splitlines()), sep="\n", end="\n\n")
    table([_as_text(overview)])
    print(f"\nsettings, spec {entry.spec.signature}:")
    for key, value in entry.spec.flat().items():
        if key not in FIXED:
            print(_setting(key, value))


@app.command("data", epilog=examples("data", "data --data-dir DIR"))
def data_(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show where data sets are found and whether they are canonical.

    Nothing is downloaded.
    """
    from repro.data import survey

    rows = [vars(finding) for finding in survey(data_dir)]
    if as_json:
        print(json.dumps(rows, indent=2, default=str))
    else:
        table(rows)


@app.command(epilog=examples("bench mnist_fc --threads 1", "bench --quick --json"))
def bench(
    names: Names = None,
    threads: Annotated[
        list[int] | None, number("CPU threads; may be repeated. 1 and 2 if not given.", most=1024)
    ] = None,
    rounds: Annotated[int, number("Timed rounds.", most=1000)] = 7,
    precision: Precision = "float32",
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


def _setting(key: str, value: Any) -> str:
    """Return a setting in lines that fit the terminal. No line breaks inside a layer."""
    text = re.sub(r"{.*?}", lambda layer: layer[0].replace(" ", "\xa0"), f"  {key} = {value}")
    return wrapped(text, indent=6, most=UNLIMITED).replace("\xa0", " ")


def _as_text(overview: dict[str, Any]) -> dict[str, Any]:
    costs = "; ".join(f"{each['cost']:,.2f} at epoch {each['epoch']}" for each in overview["reported"])
    return overview | {"reported": costs or None}


def _overview(entry: registry.Entry) -> dict[str, Any]:
    spec = entry.spec
    return {
        "name": entry.name,
        "dataset": spec.data.name,
        "epochs": spec.training.epochs,
        "batch_size": spec.training.batch_size,
        "learning_rate": spec.optim.lr,
        "latent": spec.model.latent,
        "reported": [{"epoch": each.epoch, "cost": each.cost} for each in spec.reported],
        "variant_of": spec.variant_of,
    }
