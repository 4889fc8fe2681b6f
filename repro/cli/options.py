"""Options that several commands take, and reading those that the parser cannot check."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from repro.errors import UsageError
from repro.spec import Experiment, overrides

MOST_SEEDS = 1000  # in one command

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A registered experiment (see `list`), or the path of your own file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataDir = Annotated[
    Path | None, typer.Option(help="The directory that holds the data; also read from REPRO_DATA_DIR.", metavar="DIR")
]
SummaryFile = Annotated[Path | None, typer.Option(help="Write what came of it as JSON.", metavar="FILE")]
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="A run's id, or its beginning.")]


@contextmanager
def all_faults() -> Iterator[list[str]]:
    """Collect the faults of a command line, and raise them all in one UsageError at the end of the block."""
    faults: list[str] = []
    yield faults
    if faults:
        raise UsageError(*faults)


def whole(faults: list[str], option: str, text: str, low: int, high: int) -> int:
    """Return the number that an option was given; a fault is added if it is none, or out of range."""
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        faults.append(f"{option} {text}: should be a whole number from {low} to {high}")
    return number


def seeds(faults: list[str], text: str) -> tuple[int, ...]:
    """Return the seeds that `--seeds` was given, ascending: `0-4`, `0,2,5` or `0-2,7`. Every fault in it is added."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", part.strip())
        if match is None:
            faults.append(f"--seeds {text}: {part!r} should be a whole number, or a range such as 0-4")
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= 2**63:
            faults.append(f"--seeds {text}: {last} should be at most {2**63 - 1}")
        elif last < first:
            faults.append(f"--seeds {text}: {part} should ascend, as {last}-{first} does")
        elif len(found) + last - first >= MOST_SEEDS:
            faults.append(f"--seeds {text}: should name at most {MOST_SEEDS} seeds; take several commands")
            break
        else:
            found += range(first, last + 1)
    twice = sorted({seed for seed in found if found.count(seed) > 1})
    if twice:
        faults.append(f"--seeds {text}: should name each seed once; more than once: {', '.join(map(str, twice))}")
    return tuple(sorted(found))


def overridden(faults: list[str], spec: Experiment, assignments: list[str]) -> Experiment:
    """Return the spec after overrides, whose faults are added to the others."""
    try:
        return overrides.apply(spec, assignments)
    except UsageError as fault:
        faults += fault.faults
        return spec
