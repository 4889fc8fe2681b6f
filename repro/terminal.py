"""Tables on the terminal."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table


def table(rows: list[dict[str, Any]]) -> None:
    """Print rows under their keys, numbers to the right; "-" for None. Wide in a pipe, as the window is otherwise."""
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
