"""Commands that say what came of the runs."""

import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repro import registry
from repro.cli.app import AsJson, app
from repro.errors import ReproError, UsageError
from repro.tables import table

if TYPE_CHECKING:
    from analysis.frames import Frames

Results = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Read committed results, such as `results`, not the tracking store.")
]


@app.command()
def compare(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Experiments; all if none.")] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    results: Results = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also draw cost curves and samples into this directory.")
    ] = None,
) -> None:
    """Are the reported costs reproduced? A verdict on each, the curves, and the runs behind them."""
    entries = [registry.get(name) for name in names or registry.names()]
    if as_json and as_csv:
        raise UsageError("--json and --csv: should be one of the two")
    frames = _frames(entries, results)

    from analysis import compare as comparison

    found = comparison.verdicts(entries, frames)
    if as_json:
        print(json.dumps(comparison.records(found), indent=2))
    elif as_csv:
        print(comparison.as_csv(found), end="")
    else:
        _print_tables(
            ("Verdicts; costs in nats per image", comparison.verdict_rows(found)),
            ("Curves against the published plots", comparison.curve_rows(entries, frames)),
            ("Runs", comparison.run_rows(entries, frames)),
        )
    for entry in entries if figures else []:
        for path in comparison.draw(entry, Path(str(figures))):
            print(f"wrote {path}", file=sys.stderr)


@app.command()
def claims(as_json: AsJson = False, results: Results = None) -> None:
    """Every sentence of the text that can be checked: what decides it, and what the runs say."""
    from analysis import claims as text
    from analysis.frames import all_entries

    found = text.judge(text.Evidence(_frames(all_entries(), results)))
    if as_json:
        rows = [vars(claim) | vars(finding) for claim, finding in found]
        print(json.dumps([{key: row[key] for key in row if key != "decide"} for row in rows], indent=2))
        return
    for claim, finding in found:
        print(f"{claim.name}: {finding.verdict.upper()}")
        for label, line in (
            ("the text", f'"{claim.sentence}"'),
            ("measured", claim.measurement),
            ("decides", claim.criterion),
            ("evidence", finding.evidence),
        ):
            print(textwrap.fill(f"{label:>9}: {line}", 110, subsequent_indent=" " * 11))
        print()


def _frames(entries: list[registry.Entry], results: Path | None) -> "Frames":
    """The runs of these experiments from the tracking store, or from committed files; what cannot be read is told."""
    from analysis import frames
    from repro.tracking import store

    if results is not None:
        return frames.from_files(results)
    if not store.exists():
        remedy = "start with: python -m repro run mnist_fc; or read committed results with --results DIR"
        raise ReproError(f"no runs yet in {store.folder()}; {remedy}")
    found, faults = frames.from_store(entries)
    for fault in faults:
        print(f"note: {fault}", file=sys.stderr)
    return found


def _print_tables(*tables: tuple[str, list[dict[str, Any]]]) -> None:
    for title, rows in tables:
        if rows:
            print(f"\n{title}")
            table(rows)
