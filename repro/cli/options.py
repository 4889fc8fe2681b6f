"""Options that several commands share, and checks that the parser cannot make."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from repro.errors import UsageError
from repro.spec import Experiment, overrides

MOST_SEEDS = 1000  # of one command
LARGEST_SEED = 2**63 - 1

Name = Annotated[str, typer.Argument(metavar="NAME", help="An experiment (see `list`), or the path of your own file.")]
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="The id of a run, or its first characters.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataChoice = Annotated[
    Literal["auto", "real", "stand-in"],
    typer.Option(help="`real` refuses the stand-in, `stand-in` takes nothing else."),
]
DataDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Directory of the data; also read from REPRO_DATA_DIR.")
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, metavar="N", help="CPU threads; all cores if not given.")]
SummaryFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result to FILE as JSON.")]


@contextmanager
def all_faults() -> Iterator[list[str]]:
    """Collect the faults of a command line, and raise them in one UsageError at the end of the block."""
    faults: list[str] = []
    yield faults
    if faults:
        raise UsageError(*faults)


def seeds(faults: list[str], text: str) -> tuple[int, ...]:
    """Return the seeds of `--seeds`, ascending: `0-4`, `0,2,5` or `0-2,7`. Adds its faults to `faults`."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", part.strip())
        if match is None:
            faults.append(f"--seeds {text}: {part!r} should be a whole number, or a range such as 0-4")
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        if last > LARGEST_SEED:
            faults.append(f"--seeds {text}: {last} should be at most {LARGEST_SEED}")
        elif last < first:
            faults.append(f"--seeds {text}: {part} should ascend, as {last}-{first} does")
        elif len(found) + last - first >= MOST_SEEDS:
            faults.append(f"--seeds {text}: should name at most {MOST_SEEDS} seeds; take several commands")
            break
        else:
            found += range(first, last + 1)
    repeated = sorted({seed for seed in found if found.count(seed) > 1})
    if repeated:
        faults.append(f"--seeds {text}: should name each seed once; more than once: {', '.join(map(str, repeated))}")
    return tuple(sorted(found))


def overridden(faults: list[str], spec: Experiment, assignments: list[str]) -> Experiment:
    """Return the spec after overrides. Adds their faults to `faults`."""
    try:
        return overrides.apply(spec, assignments)
    except UsageError as fault:
        faults += fault.faults
        return spec
