"""Tracked runs against the reported cost: a table, and for each setup the curves and the last samples."""

from pathlib import Path

import pandas as pd

from repro import figures
from repro.registry import Entry
from repro.tracking import names, read

COLUMNS = [
    "experiment",
    "run",
    "status",
    "seed",
    "epochs",
    "cost",
    "reported",
    "difference",
    "test_neg_elbo",
    "data",
    "note",
]


def table(entries: list[Entry]) -> pd.DataFrame:
    """One row a run, newest first in each experiment. Costs in nats per image; `note` says why one is not comparable.

    `difference` is cost - reported, and empty where the two must not be compared.
    """
    rows = [_row(entry, run) for entry in entries for run in read.runs(entry.name)]
    return pd.DataFrame(rows, columns=COLUMNS)


def draw(entry: Entry, directory: Path) -> list[Path]:
    """Write the cost curves of an experiment's runs on real data, and its newest samples; return the files.

    Raises StoreError if the store cannot be read and ReproError if the reported curve cannot.
    """
    directory.mkdir(parents=True, exist_ok=True)
    runs = [run for run in read.runs(entry.name) if run.tags.get(names.DATA_STATUS) != "stand-in" and run.metrics]
    if not runs:
        return []
    reported, curve = entry.spec.reported, None
    if reported is not None and reported.curve is not None:
        curve = figures.read_curve(entry.file.parent / reported.curve)
    costs = {_label(run): read.history(run.run_id, names.COST) for run in reversed(runs)}
    written = [directory / f"{entry.name}_cost.png"]
    figures.cost_curve(f"{entry.name}: training cost against the reported curve", costs, curve).savefig(written[0])
    samples = read.last_image(runs[0].run_id, "samples")
    if samples is not None:
        written.append(directory / f"{entry.name}_samples.png")
        samples.save(written[1])
    return written


def _label(run: read.RunRecord) -> str:
    return f"seed {run.params.get(names.SEED, '?')}" + ("" if run.comparable else " (not comparable)")


def _row(entry: Entry, run: read.RunRecord) -> dict[str, object]:
    cost, reported = run.metrics.get(names.COST), entry.spec.reported
    compared = run.comparable and cost is not None and reported is not None
    return {
        "experiment": entry.name,
        "run": run.run_id[:8],
        "status": run.status,
        "seed": run.params.get(names.SEED, "?"),
        "epochs": len(read.history(run.run_id, names.COST)),
        "cost": cost,
        "reported": reported.cost if reported else None,
        "difference": cost - reported.cost if compared and cost is not None and reported is not None else None,
        "test_neg_elbo": run.metrics.get(names.TEST_NEG_ELBO),
        "data": run.tags.get(names.DATA_STATUS, "?"),
        "note": "" if run.comparable else run.tags.get(names.NOT_COMPARABLE_BECAUSE, "it has not finished"),
    }
