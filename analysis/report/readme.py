"""The verdicts in five columns, in a README that marks a place for them."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from repro.analysis.report.document import Table, markdown_table
from repro.analysis.verdicts import Verdict

MARKS = ("<!-- verdicts: written by `python -m repro report` -->", "<!-- end of verdicts -->")


def table(found: Iterable[Verdict]) -> Table:
    rows = [
        {
            "experiment": f"{each.experiment}, epoch {each.epoch}",
            "verdict": each.label,
            "reported": each.reported,
            "mean ± sd": _mean(each),
            "difference (margin)": f"{'-' if each.difference is None else f'{each.difference:+.2f}'} ({each.margin})",
        }
        for each in found
    ]
    return Table("summary", pd.DataFrame(rows))


def _mean(verdict: Verdict) -> str:
    if verdict.mean is None:
        return "-"
    return f"{verdict.mean:,.2f} ± {'-' if verdict.std is None else f'{verdict.std:.2f}'}"


def differs(path: Path, verdicts: Table) -> bool:
    """Return whether a README marks a place for the verdicts and has others there."""
    return _read(path) != _filled(_read(path), verdicts)


def write(path: Path, verdicts: Table) -> None:
    """Write the verdicts between the marks of a README. One without marks is left alone."""
    if differs(path, verdicts):
        path.write_bytes(_filled(_read(path), verdicts).encode("utf-8", "surrogateescape"))


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else ""


def _filled(text: str, verdicts: Table) -> str:
    before, opened, rest = text.partition(MARKS[0])
    _, closed, after = rest.partition(MARKS[1])
    return f"{before}{opened}\n{markdown_table(verdicts)}\n{closed}{after}" if opened and closed else text
