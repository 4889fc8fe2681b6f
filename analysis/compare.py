"""Tracked runs against the reported costs: verdicts, the runs behind them, curves, and pictures of both."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import curves
from analysis.frames import Frames
from analysis.verdicts import Verdict, pooled, verdict
from repro import figures
from repro.registry import Entry
from repro.tracking import names, read

RUN_COLUMNS = ["experiment", "run", "status", "seed", "epochs", "cost", "difference", "test_neg_elbo", "data", "note"]


def verdicts(entries: list[Entry], frames: Frames) -> list[Verdict]:
    """One for each of these experiments that has a reported cost."""
    return [verdict(entry, frames.runs) for entry in entries if entry.spec.reported]


def records(found: list[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as JSON takes them, and CSV."""
    return [asdict(each) | {"seeds": list(each.seeds)} for each in found]


def as_csv(found: list[Verdict]) -> str:
    """Verdicts as CSV with a header; the seeds of one are separated by spaces."""
    rows = [record | {"seeds": " ".join(map(str, record["seeds"]))} for record in records(found)]
    return str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def verdict_rows(found: list[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as a person reads them. Costs in nats per image."""
    return [
        {
            "experiment": each.experiment,
            "reported": each.reported,
            "n": each.n,
            "mean": each.mean,
            "std": each.std,
            "95%_for_one_more": f"{each.pi_low:.2f} to {each.pi_high:.2f}" if each.pi_low is not None else None,
            "difference": each.difference,
            "margin": each.margin,
            "of_excess": f"{each.excess_share:+.2%}" if each.excess_share is not None else None,
            "verdict": each.verdict + (f" ({each.reason})" if each.reason else ""),
            "data": each.data or None,
        }
        for each in found
    ]


def curve_rows(entries: list[Entry], frames: Frames) -> list[dict[str, Any]]:
    """How each experiment's curves follow the reported one, as a person reads it; none for those without a verdict.

    Raises ReproError if a reported curve is damaged.
    """
    rows = []
    for entry in entries:
        reported, found = curves.reported_curve(entry), verdict(entry, frames.runs) if entry.spec.reported else None
        if reported is None or found is None or not found.n or found.margin is None:
            continue
        used, _ = pooled(frames.runs[frames.runs["experiment"] == entry.name])
        mine = frames.curves[frames.curves["run_id"].isin(used["run_id"])]
        shape = curves.compare(entry, mine, reported, found.margin)
        row: dict[str, Any] = {"experiment": entry.name, "n": found.n}
        for share, theirs, seeds in zip(curves.FALLS, shape.knees_reported, shape.knees, strict=True):
            row[f"{share:.0%}_of_fall_reported"] = f"epoch {theirs:.1f}"
            row[f"{share:.0%}_of_fall"] = f"epoch {min(seeds):.1f} to {max(seeds):.1f}"
        off, nats, epoch = shape.largest_deviation, shape.largest_nats, shape.largest_epoch
        far = f"{off:+.1f} reading errors ({nats:+.2f} nats) at epoch {epoch}" if off is not None else None
        row["largest_deviation_after"] = far
        row["within_error_and_margin"] = f"{shape.share_within:.0%}" if shape.share_within is not None else None
        rows.append(row)
    return rows


def run_rows(entries: list[Entry], frames: Frames) -> list[dict[str, Any]]:
    """One row a run, newest first in each experiment. `difference` is cost - reported, None where not comparable."""
    rows: list[dict[str, Any]] = []
    for entry in entries:
        reported = entry.spec.reported
        mine = frames.runs[frames.runs["experiment"] == entry.name].sort_values("started", ascending=False)
        for raw in mine.to_dict("records"):
            run: dict[str, Any] = {key: None if pd.isna(value) else value for key, value in raw.items()}
            compared = run["comparable"] and reported is not None
            rows.append(
                {key: run.get(key) for key in RUN_COLUMNS}
                | {
                    "run": run["run_id"][:8],
                    "difference": run["cost"] - reported.cost if compared and reported else None,
                    "note": run["reason"],
                }
            )
    return rows


def draw(entry: Entry, directory: Path) -> list[Path]:
    """Write the cost curves of an experiment's runs on real data, and its newest samples; return the files.

    Raises StoreError if the store cannot be read and ReproError if the reported curve cannot.
    """
    directory.mkdir(parents=True, exist_ok=True)
    runs = [run for run in read.runs(entry.name) if run.tags.get(names.DATA_STATUS) != "stand-in" and run.metrics]
    if not runs:
        return []
    costs = {_label(run): read.history(run.run_id, names.COST) for run in reversed(runs)}
    written = [directory / f"{entry.name}_cost.png"]
    title = f"{entry.name}: training cost against the reported curve"
    figures.cost_curve(title, costs, curves.reported_curve(entry)).savefig(written[0])
    samples = read.last_image(runs[0].run_id, "samples")
    if samples is not None:
        written.append(directory / f"{entry.name}_samples.png")
        samples.save(written[1])
    return written


def _label(run: read.RunRecord) -> str:
    return f"seed {run.params.get(names.SEED, '?')}" + ("" if run.comparable else " (not comparable)")
