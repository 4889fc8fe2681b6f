"""Messages, tables and durations on the terminal."""

import sys
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.table import Table


def say(*lines: str, error: bool = False) -> None:
    """Print lines, on stderr if `error`. A closed terminal or a full disk is ignored, so that training goes on."""
    with suppress(OSError):
        print(*lines, sep="\n", file=sys.stderr if error else sys.stdout, flush=True)


def table(rows: list[dict[str, Any]]) -> None:
    """Print rows under their keys, as wide as the terminal, or 220 characters wide in a pipe. None is `-`."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for key in rows[0] if rows else ():
        numbers = all(isinstance(row[key], int | float | None) for row in rows)
        grid.add_column(key.replace("_", " "), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        grid.add_row(*map(_cell, row.values()))
    Console(width=None if sys.stdout.isatty() else 220, highlight=False, markup=False).print(
        grid if rows else "no runs yet"
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Return seconds as `5 s`, `3 min 02 s` or `1 h 20 min`."""
    minutes, seconds = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{seconds} s"
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
