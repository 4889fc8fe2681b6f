"""Commands that say what came of the runs."""

from pathlib import Path
from typing import Annotated

import typer

from repro import registry
from repro.cli.app import app
from repro.errors import ReproError
from repro.tables import table


@app.command()
def compare(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Experiments; all if none.")] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also draw cost curves and samples into this directory.")
    ] = None,
) -> None:
    """The tracked runs against the reported costs."""
    entries = [registry.get(name) for name in names or registry.names()]

    from repro.tracking import store

    if not store.exists():
        raise ReproError(f"no runs yet in {store.folder()}; start with: python -m repro run mnist_fc")

    from analysis import compare as comparison

    found = comparison.table(entries)
    table(found.astype(object).where(found.notna(), None).to_dict("records"))
    for entry in entries if figures else []:
        for path in comparison.draw(entry, Path(str(figures))):
            print(f"wrote {path}")
