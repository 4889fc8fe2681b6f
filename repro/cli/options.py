"""The command line's application, options that several commands share, and checks that the parser cannot make."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from repro.errors import UsageError
from repro.runs import ids
from repro.spec import registry
from repro.terminal import silent
from repro.text import odd_number

if TYPE_CHECKING:
    from repro.data import Choice
    from repro.runs.config import RunConfig

MOST_SEEDS = 1000  # of one command
LARGEST_SEED = 2**63 - 1
MOST_EPOCHS = 1_000_000

BY_USE = (
    "run", "resume", "compare", "ui", "runs", "evaluate", "verify", "check", "sweep", "claims", "report",
    "list", "show", "data", "rm", "prune", "export", "import", "sync", "bench",
)  # fmt: skip
"""The commands as `--help` lists them: those that are used most come first."""


class Group(TyperGroup):
    """Commands whose numbers are written with the digits 0 to 9 alone."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command: Any = super().get_command(ctx, cmd_name)
        for param in command.params if command else ():
            if getattr(param, "min", None) is not None:
                param.process_value = partial(_number, param)
        return command


def _number(param: Any, ctx: Any, value: Any) -> Any:
    for text in value if isinstance(value, list | tuple) else [value]:
        if isinstance(text, str) and odd_number(text):
            raise UsageError(f"{param.opts[0]} {text!r}: should be written with the digits 0 to 9 alone")
    return type(param).process_value(param, ctx, value)


class ByUse(Group):
    """The commands in the order of BY_USE."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=BY_USE.index)


app = typer.Typer(
    cls=ByUse,
    name="python -m repro",
    help="Rerun published results of variational autoencoders, track every run, and decide which are reproduced.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"repro-vae {metadata.version('repro-vae')}")
        raise typer.Exit


@app.callback()
def _main(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Rerun published results of variational autoencoders, track every run, and decide which are reproduced."""


def examples(*commands: str) -> str:
    """Return the end of a command's help: the examples, without `python -m repro`, one a line."""
    lines = "\n".join(f"  python -m repro {command}" for command in commands)
    return f"\b\nExamples:\n{lines}"


def number(text: str, least: int = 1, most: int | None = None, metavar: str = "N") -> Any:
    """Return an option for a whole number from `least` to `most`, with its help."""
    return typer.Option(metavar=metavar, min=least, max=most, help=text)


def value(metavar: str, text: str) -> Any:
    """Return an option for a value that the help calls `metavar`."""
    return typer.Option(metavar=metavar, help=text)


def experiments(incomplete: str) -> list[str]:
    """Return the experiments whose names begin with `incomplete`, for completion in a shell."""
    return [name for name in registry.names() if name.startswith(incomplete)]


def run_id(text: str) -> Any:
    """Return an argument for a run, with its help."""
    return typer.Argument(metavar="RUN_ID", help=text, autocompletion=ids.completions)


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="An experiment (see `list`), or the path of your own file.", autocompletion=experiments
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Experiments; all if not given.", autocompletion=experiments),
]
RunId = Annotated[str, run_id("The id of a run, or its first characters.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and for how long; train nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataChoice = Annotated[
    Literal["auto", "real", "stand-in"],
    typer.Option(help="`real` refuses the stand-in, `stand-in` takes nothing else."),
]
DataDir = Annotated[Path | None, value("DIR", "Directory of the data; also read from REPRO_DATA_DIR.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]
Precision = Annotated[
    Literal["float32", "mixed"],
    typer.Option(help="`mixed` computes products in bfloat16; such runs enter no verdict on a reported cost."),
]
Threads = Annotated[int | None, number("CPU threads; all cores if not given.", most=1024)]
SummaryFile = Annotated[Path | None, value("FILE", "Write the result to FILE as JSON.")]


@contextmanager
def output(as_json: bool, quiet: bool = False) -> Iterator[None]:
    """Print everything in the block on stderr if JSON is to be alone on stdout, and nowhere if `quiet`.

    What the block itself prints on stderr is printed in either case, but for phases, which `quiet` hides.
    """
    if quiet:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), silent():
            yield
    else:
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            yield


def config(
    name: str,
    device: str,
    threads: int | None,
    jobs: int,
    data: "Choice",
    data_dir: Path | None,
    precision: Literal["float32", "mixed"] = "float32",
) -> "RunConfig":
    """Return the configuration of an experiment as it is, with the threads of one of `jobs` processes.

    Raises UsageError for an unknown experiment, for a device or a precision that this machine lacks, and for a
    directory beside a demand for the stand-in.
    """
    if data == "stand-in" and data_dir is not None:
        raise UsageError(f"--data stand-in and --data-dir {data_dir}: should be one of the two")
    from repro import provenance
    from repro.runs.config import RunConfig, pick_device, pick_precision

    picked = pick_device(device)
    return RunConfig(
        experiment=str(Path(name).resolve()) if Path(name).suffix == ".py" else name,
        spec=registry.get(name).spec,
        data=data,
        data_dir=data_dir.resolve() if data_dir else None,
        device=picked,
        precision=pick_precision(precision, picked),
        threads=max(1, (threads or provenance.cores()) // jobs),
    )


@contextmanager
def collected(faults: list[str]) -> Iterator[None]:
    """Add the faults of a UsageError in the block to `faults`, so that all of a command line are named together."""
    try:
        yield
    except UsageError as error:
        faults += error.faults


def seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of `--seeds`, ascending: `0-4`, `0,2,5` or `0-2,7`. Raises UsageError with every fault."""
    found: list[int] = []
    faults: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", part.strip())
        if match is None:
            faults.append(f"{part!r} should be a whole number, or a range such as 0-4")
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        if last > LARGEST_SEED:
            faults.append(f"{last} should be at most {LARGEST_SEED}")
        elif last < first:
            faults.append(f"{part} should ascend, as {last}-{first} does")
        elif len(found) + last - first >= MOST_SEEDS:
            faults.append(f"should name at most {MOST_SEEDS} seeds; take several commands")
            break
        else:
            found += range(first, last + 1)
    repeated = sorted({seed for seed in found if found.count(seed) > 1})
    if repeated:
        faults.append(f"should name each seed once; more than once: {', '.join(map(str, repeated))}")
    if faults:
        raise UsageError(*(f"--seeds {text}: {fault}" for fault in faults))
    return tuple(sorted(found))
