"""Messages, tables and durations on the terminal."""

import math
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from repro.text import printable

GAP = 2  # characters between two columns
PROSE = 20  # characters; a column is not wrapped to less
MOST_DECIMALS, MOST_POWER = 6, 8  # beyond them a column is in scientific notation
UNLIMITED = 1_000_000  # characters, the width of a pipe

Columns = dict[str, list[str]]

_silent = ContextVar("_silent", default=False)


def say(*lines: str, error: bool = False) -> None:
    """Print lines, on stderr if `error`. A closed terminal or a full disk is ignored, so that training goes on."""
    with suppress(OSError):
        print(*lines, sep="\n", file=sys.stderr if error else sys.stdout, flush=True)


@contextmanager
def phase(text: str) -> Iterator[Callable[[str], None]]:
    """Show what the block does, with a spinner and the time it has taken, on a terminal at stderr; erase it at the end.

    Yields a function that changes the text. The block has no phase and no progress bar inside.
    """
    console = Console(stderr=True)
    shown = console.is_terminal and not console.is_dumb_terminal and not _silent.get()
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    progress = Progress(
        *columns, console=console, transient=True, disable=not shown, redirect_stdout=sys.stdout.isatty()
    )
    task = progress.add_task(text)
    with progress:
        yield lambda now: progress.update(task, description=now)


@contextmanager
def silent() -> Iterator[None]:
    """Show no phase in the block."""
    before = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(before)


def table(rows: Sequence[dict[str, Any]], decimals: int = 2, spare: Sequence[str] = ()) -> None:
    """Print rows under their keys. No number or word is broken, and in a pipe each row is one line.

    Where the terminal, or COLUMNS, is too narrow, the widest column is wrapped at spaces, then the columns `spare` are
    left out one by one, then each row becomes lines of key and value. All real numbers of a column have the same
    decimals: `decimals`, or as many as its smallest number needs. None is `-`.
    """
    width = _width()
    columns = {key: _cells([row[key] for row in rows], decimals) for key in rows[0]}
    for count in range(len(spare) + 1):
        shown = {key: cells for key, cells in columns.items() if key not in spare[:count]}
        if widths := _widths(shown, width):
            break
    else:
        print("\n\n".join(_lines(columns, index, width) for index in range(len(rows))))
        return
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for key, column_width in zip(shown, widths, strict=True):
        numbers = all(isinstance(row[key], int | float | None) for row in rows)
        grid.add_column(_head(key), justify="right" if numbers else "left", width=column_width)
    for cells in zip(*shown.values(), strict=True):
        grid.add_row(*cells)
    color: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    Console(width=width, highlight=False, markup=False, color_system=color).print(grid)
    if left_out := [_head(key) for key in columns if key not in shown]:
        print(f"left out at {width} columns: {', '.join(left_out)}")


def wrapped(text: str, indent: int = 0, most: int = 100) -> str:
    """Return text in lines of at most `most` characters that fit the terminal, indented after the first one."""
    return _filled(text, min(most, _width()), "", " " * indent)


def _width() -> int:
    return shutil.get_terminal_size((UNLIMITED, 0)).columns


def _filled(text: str, width: int, first: str, others: str) -> str:
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def _head(key: str) -> str:
    return key.replace("_", " ")


def _cells(values: Sequence[Any], decimals: int) -> list[str]:
    """Return the text of each value of a column."""
    real = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    powers = [math.floor(math.log10(abs(value))) for value in real if value] or [0]
    needed = max(decimals, 2 - max(powers), (1 if max(powers) < 0 else 0) - min(powers))
    while needed > decimals and all(value == round(value, needed - 1) for value in real):
        needed -= 1
    form = ".2e" if needed > MOST_DECIMALS or max(powers) > MOST_POWER else f",.{needed}f"
    return [
        "-" if value is None
        else f"{value:,}" if isinstance(value, int)
        else format(value, form) if isinstance(value, float)
        else printable(str(value))
        for value in values
    ]  # fmt: skip


def _widths(columns: Columns, width: int) -> list[int]:
    """Return the width of each column if they fit side by side, else nothing. Only the widest one is ever wrapped."""
    needed = [max(map(cell_len, cells)) for cells in columns.values()]
    widest = needed.index(max(needed))
    words = [max(map(cell_len, _head(key).split()), default=0) for key in columns]
    word = max(cell_len(word) for cell in [*columns.values()][widest] for word in cell.split() or [""])
    for heads in ([cell_len(_head(key)) for key in columns], words):
        widths = [max(pair) for pair in zip(heads, needed, strict=True)]
        others = sum(widths) - widths[widest] + GAP * (len(widths) - 1)
        if widths[widest] > width - others >= max(PROSE, word, words[widest]):
            widths[widest] = width - others
        if others + widths[widest] <= width:
            return widths
    return []


def _lines(columns: Columns, index: int, width: int) -> str:
    """Return a row as lines of key and value, without what is missing."""
    indent = max(cell_len(_head(key)) for key in columns) + GAP
    return "\n".join(
        _filled(cells[index], width, _head(key).ljust(indent), " " * indent)
        for key, cells in columns.items()
        if cells[index] not in ("-", "")
    )


def duration(seconds: float) -> str:
    """Return seconds as `5 s`, `3 min 02 s` or `1 h 20 min`."""
    minutes, seconds = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{seconds} s"
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
