"""Tracked runs against the reported costs: verdicts, the runs behind them, curves, and pictures of both."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from repro.analysis import curves
from repro.analysis.frames import Frames
from repro.analysis.verdicts import Verdict, verdicts

from repro import figures
from repro.registry import Entry
from repro.text import seed_list
from repro.tracking import names, read

RUN_COLUMNS = ["experiment", "run", "status", "seed", "epochs", "cost", "test_neg_elbo", "data", "note"]


def all_verdicts(entries: list[Entry], frames: Frames) -> list[Verdict]:
    """One for each reported result of these experiments."""
    return [each for entry in entries for each in verdicts(entry, frames)]


def records(found: list[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as JSON takes them, and CSV."""
    return [asdict(each) | {"number_reached": each.number_reached, "one_of_ours": each.one_of_ours} for each in found]


def as_csv(found: list[Verdict]) -> str:
    """Verdicts as CSV with a header; the parts of a list are separated by spaces, failures by semicolons."""
    rows = [
        record
        | {key: " ".join(map(str, record[key])) for key in ("seeds", "outside")}
        | {"failures": "; ".join(record["failures"])}
        for record in records(found)
    ]
    return str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def verdict_rows(found: list[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as a person reads them. Costs in nats per image."""
    return [
        {
            "experiment": each.experiment,
            "epoch": each.epoch,
            "verdict": each.label,
            "reported": each.reported,
            "mean": each.mean,
            "std": each.std,
            "difference": each.difference,
            "margin": each.margin,
            "number_reached": each.number_reached,
            "95%_for_one_more": f"{each.pi_low:.2f} to {each.pi_high:.2f}" if each.pi_low is not None else None,
            "one_of_ours": each.one_of_ours + (f" (p = {each.p:.2f})" if each.one_of_ours != "-" else ""),
        }
        for each in found
    ]


def plan_rows(found: list[Verdict]) -> list[dict[str, Any]]:
    """What was planned, and what came of it: seeds, the commit of the plan and its date, and what has to be said."""
    return [
        {
            "experiment": each.experiment,
            "epoch": each.epoch,
            "seeds": f"{each.n} of {each.planned}",
            "plan": f"{each.plan_commit[:8]}, {each.plan_date[:10]}" if each.plan_commit else None,
            "data": each.data or None,
            "of_excess": f"{each.excess_share:+.2%}" if each.excess_share is not None else None,
            "half_95%_of_excess": f"{each.pi_half_share:.2%}" if each.pi_half_share is not None else None,
            "t": each.t,
            "note": "; ".join(_remarks(each)) or None,
        }
        for each in found
    ]


def _remarks(verdict: Verdict) -> list[str]:
    outside = [f"outside the plan: seeds {seed_list(verdict.outside)}"] if verdict.outside and verdict.planned else []
    return [*verdict.failures, *filter(None, [verdict.reason]), *outside]


def curve_rows(entries: list[Entry], frames: Frames) -> list[dict[str, Any]]:
    """Each published curve's place among ours, as a person reads it; none for those with too few planned runs.

    Raises ReproError if a published curve is damaged.
    """
    rows: list[dict[str, Any]] = []
    for entry in entries:
        for reported in entry.spec.reported:
            found = curves.place(entry, reported, frames)
            if found is not None:
                rows.append(
                    {
                        "experiment": entry.name,
                        "epochs": f"1 to {reported.epoch}",
                        "seeds": f"{len(found.seeds)} of {len(reported.seeds)}",
                        "rank": f"{found.rank} of {len(found.seeds) + 1}",
                        "p": found.p,
                        "published_distance": found.published,
                        "our_distances": f"{min(found.distances):.1f} to {max(found.distances):.1f}",
                        "farthest_at_epoch": found.epoch,
                        "nats_there": found.nats,
                    }
                )
    return rows


def run_rows(entries: list[Entry], frames: Frames) -> list[dict[str, Any]]:
    """One row a run, newest first in each experiment."""
    rows: list[dict[str, Any]] = []
    for entry in entries:
        mine = frames.runs[frames.runs["experiment"] == entry.name].sort_values("started", ascending=False)
        for raw in mine.to_dict("records"):
            run: dict[str, Any] = {key: None if pd.isna(value) else value for key, value in raw.items()}
            named = {"run": run["run_id"][:8], "note": run["reason"]}
            rows.append({key: run.get(key) for key in RUN_COLUMNS} | named)
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
    curve = figures.reported_curve(entry.file, entry.spec.reported[-1]) if entry.spec.reported else None
    figures.cost_curve(title, costs, curve).savefig(written[0])
    samples = read.last_image(runs[0].run_id, "samples")
    if samples is not None:
        written.append(directory / f"{entry.name}_samples.png")
        samples.save(written[1])
    return written


def _label(run: read.RunRecord) -> str:
    return f"seed {run.params.get(names.SEED, '?')}" + ("" if run.comparable else " (not comparable)")
