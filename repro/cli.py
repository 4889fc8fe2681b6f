"""The command line: parses, calls, prints. Heavy imports are inside the commands, so that `--help` answers at once."""

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from repro.errors import ReproError, UsageError
from repro.spec import Experiment

app = typer.Typer(
    name="python -m repro",
    help="Rerun published variational-autoencoder results, track every run, and see whether the numbers are reproduced.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[str, typer.Argument(help="A registered experiment (see `list`), or the path of your own file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Where to look for the data first; also read from REPRO_DATA_DIR.", metavar="DIR")
]


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong use, 3 no data, 130 or 143 interrupted."""
    try:
        result = app(arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except ReproError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except typer.Abort:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
        return 1
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # what the parser has to say
            error.show()
            return int(error.exit_code)
        return _unexpected(error)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """The registered experiments and what was reported for them."""
    from repro import registry  # noqa: PLC0415

    rows = [_overview(registry.get(name)) for name in registry.names()]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _table(rows)


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """One experiment: what it is, what was reported, and every setting that --set can change."""
    from repro import registry  # noqa: PLC0415

    entry = registry.get(name)
    overview = _overview(entry)
    if as_json:
        print(json.dumps(overview | {"spec": entry.spec.to_dict(), "signature": entry.spec.signature}, indent=2))
        return
    print(entry.about or entry.name, end="\n\n")
    _table([overview])
    print(f"\nsettings, spec {entry.spec.signature}:")
    for key, value in entry.spec.flat().items():
        if not key.startswith("reported."):
            print(f"  {key} = {value}")


@app.command()
def run(
    name: Name,
    seed: Annotated[int, typer.Option(help="Decides the initial weights, the order and the noise.")] = 0,
    epochs: Annotated[str | None, typer.Option(help="Same as --set training.epochs=N.", metavar="N")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting, such as optim.lr=3e-4; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; all cores if not given.")] = None,
    data: Annotated[
        Literal["auto", "real", "stand-in"], typer.Option(help="`real` refuses the stand-in; `stand-in` takes only it.")
    ] = "auto",
    data_dir: DataDir = None,
    summary: Annotated[Path | None, typer.Option(help="Write what came of it as JSON.", metavar="FILE")] = None,
) -> int:
    """Train an experiment and track it; exit 0 done, 1 failed, 2 wrong use, 3 no data, 130/143 interrupted."""
    from repro import registry  # noqa: PLC0415

    entry = registry.get(name)
    if epochs is not None:
        assignments = [*(assignments or []), f"training.epochs={epochs}"]
    spec = _checked_spec(entry, assignments or [], seed, threads, summary)
    return _run(entry, spec, seed, device, threads, data, data_dir, summary)


@app.command("ui")
def ui_(port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000) -> int:
    """Open the MLflow UI on the tracked runs, on this machine only."""
    from repro.tracking import ui  # noqa: PLC0415

    return ui.serve(port)


@app.command("data")
def data_(data_dir: DataDir = None) -> None:
    """What data was found where, and whether it is the canonical one. Downloads nothing."""
    from repro.data import survey  # noqa: PLC0415

    _table([vars(finding) for finding in survey(data_dir)])


def _checked_spec(
    entry: Any, assignments: list[str], seed: int, threads: int | None, summary: Path | None
) -> Experiment:
    """The spec after overrides; every fault of the command line is in the one UsageError."""
    from repro import overrides  # noqa: PLC0415

    faults: list[str] = []
    if not 0 <= seed < 2**63:
        faults.append(f"--seed {seed}: should be from 0 to {2**63 - 1}")
    if threads is not None and not 1 <= threads <= 1024:
        faults.append(f"--threads {threads}: should be from 1 to 1024")
    if summary is not None and (summary.is_dir() or not summary.absolute().parent.is_dir()):
        faults.append(f"--summary {summary}: should be a file in a directory that exists")
    try:
        spec: Experiment = overrides.apply(entry.spec, assignments)
    except UsageError as fault:
        raise UsageError(*faults, *fault.faults) from None
    if faults:
        raise UsageError(*faults)
    return spec


def _run(
    entry: Any,
    spec: Experiment,
    seed: int,
    device: str,
    threads: int | None,
    choice: Any,
    data_dir: Path | None,
    summary_file: Path | None,
) -> int:
    import torch  # noqa: PLC0415

    from repro import data, model, progress, provenance  # noqa: PLC0415

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no usable NVIDIA GPU here; use --device cpu")
    place = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    model.check(spec.model, spec.data.shape)
    dataset = data.load(spec.data, choice, data_dir)
    if spec.training.batch_size > len(dataset.train):
        raise UsageError(
            f"training.batch_size={spec.training.batch_size}: should be at most the {len(dataset.train)} training images"
        )

    from repro import runner  # noqa: PLC0415 - MLflow takes seconds to import; faults above should not wait for it

    request = runner.Request(entry, spec, dataset, seed, place, threads or provenance.cores())
    progress.announce(request)
    with progress.reporter(spec) as reporter:
        summary = runner.run(request, reporter)
    progress.conclude(summary, spec)
    if summary_file is not None:
        summary_file.write_text(json.dumps(summary.to_json(), indent=2) + "\n", encoding="utf-8")
    return summary.exit_code


def _overview(entry: Any) -> dict[str, Any]:
    from repro.model import count_parameters  # noqa: PLC0415

    spec = entry.spec
    return {
        "name": entry.name,
        "dataset": spec.data.name,
        "epochs": spec.training.epochs,
        "batch_size": spec.training.batch_size,
        "learning_rate": spec.optim.lr,
        "latent": spec.model.latent,
        "parameters": count_parameters(spec),
        "reported_cost": spec.reported.cost if spec.reported else None,
    }


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for key, value in (rows[0] if rows else {}).items():
        table.add_column(key.replace("_", " "), justify="right" if isinstance(value, int | float) else "left")
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else "-" if v is None else str(v) for v in row.values()))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _unexpected(error: Exception) -> int:
    with tempfile.NamedTemporaryFile("w", prefix="repro-error-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    first = (str(error).strip() or "no message").splitlines()[0]
    print(f"error: unexpected {type(error).__name__}: {first}\nerror: the details are in {file.name}", file=sys.stderr)
    return 1
