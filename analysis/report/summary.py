"""The tables that a reader sees: those of the report's sections, and those that `compare` prints."""

from dataclasses import asdict
from typing import Any

import pandas as pd
from repro.analysis import curves
from repro.analysis.claims import CLAIMS, Evidence, judge
from repro.analysis.claims.evidence import Measurement, MissingError
from repro.analysis.tables import Tables, diverged
from repro.analysis.verdicts import Verdict, verdicts

from repro.registry import Entry
from repro.text import seed_list

RUN_COLUMNS = ["experiment", "run", "status", "seed", "epochs", "cost", "test_neg_elbo", "data", "note"]
NOTEBOOK = ("mnist_fc", "mnist_conv", "cifar_conv")
"""The experiments of the notebook, in its order."""
FEW = "images of log p(x)"
EVALUATED = {
    ("test_neg_elbo_many", ""): "test negative ELBO",
    ("test_reconstruction_many", ""): "test reconstruction",
    ("test_kl_many", ""): "test KL",
    ("elbo_draws", ""): "draws of z for these three",
    ("test_excess_over_floor", ""): "excess over the entropy floor",
    ("log_px_images", ""): "test images used below",
    ("test_log_px", ""): "importance-weighted log p(x)",
    ("log_px_samples", ""): "draws of z for log p(x)",
    ("test_neg_elbo_many", FEW): "negative ELBO of these images",
    ("test_log_px_sampling_error", ""): "standard error of log p(x) over images",
    ("active_units", ""): "active units",
}


def headline(verdict: Verdict) -> str:
    """Return a verdict in a sentence or two."""
    if verdict.mean is None:
        return f"No run yet: {verdict.reason or f'0 of {verdict.planned} planned seeds'}."
    deviation = f" ± {verdict.std:.2f}" if verdict.std is not None else ""
    text = f"{verdict.mean:.2f}{deviation} nats over {verdict.n} of {verdict.planned} planned seeds"
    text += f", reported {verdict.reported:.2f} (margin {verdict.margin}): {verdict.difference:+.2f}"
    if verdict.excess_share is not None:
        text += f", {verdict.excess_share:+.2%} of what can be learned"
    if verdict.one_of_ours != "-":
        text += f"; published run one of ours: {verdict.one_of_ours}, p = {verdict.p:.2f}"
    return text + (f"; {verdict.reason}." if verdict.reason else ".")


def spaced(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as a table whose heads have spaces in place of underscores."""
    return pd.DataFrame(rows).rename(columns=lambda name: name.replace("_", " "))


def in_order(evidence: Evidence) -> list[Verdict]:
    """Return the verdicts on the notebook's three results, then those on the results of its earlier version."""
    last = {verdict.experiment: verdict for verdict in evidence.verdicts}
    first = [last[name] for name in NOTEBOOK]
    return first + [verdict for verdict in evidence.verdicts if verdict not in first]


def interval_table(evidence: Evidence) -> pd.DataFrame:
    """Return the intervals that the plot of the verdicts shows: one row for each reported result that has a run."""
    columns = ["experiment", "epoch", "reported", "difference", "ci_low", "ci_high", "pi_low", "pi_high", "margin", "n"]
    found = [each for each in in_order(evidence) if each.mean is not None and each.margin]
    table = pd.DataFrame([{key: getattr(each, key) for key in columns} for each in found], columns=columns)
    for key in ("pi_low", "pi_high"):  # as differences from the reported cost, like the rest
        table[key] = table[key].astype(float) - table["reported"].astype(float)
    return table


def claim_table(evidence: Evidence) -> pd.DataFrame:
    """Return one row for each claim."""
    rows = [
        {"claim": claim.name, "notebook": claim.sentence, "verdict": finding.verdict, "evidence": finding.evidence}
        for claim, finding in judge(evidence)
    ]
    return pd.DataFrame(rows, columns=["claim", "notebook", "verdict", "evidence"])


def criteria_table() -> pd.DataFrame:
    """Return how each claim is measured and what decides it."""
    rows = [{"claim": c.name, "measured": c.measurement, "decides": c.criterion} for c in CLAIMS]
    return pd.DataFrame(rows)


def evaluation_table(evidence: Evidence) -> pd.DataFrame:
    """Return the evaluation of the newest run of each experiment, a column for each that was evaluated."""
    columns: dict[str, list[str]] = {"quantity": list(EVALUATED.values())}
    for name in NOTEBOOK:
        try:
            measurement = evidence.measurement(name, "evaluation")
        except MissingError:
            continue
        columns[name] = [_estimate(measurement, *which) for which in EVALUATED]
    return pd.DataFrame(columns)


def run_table(evidence: Evidence) -> pd.DataFrame:
    """Return every run that the report uses."""
    runs = _used(evidence).sort_values(["experiment", "seed"])
    table = runs[["experiment", "seed", "cost", "test_neg_elbo", "data", "started"]].copy()
    table.insert(2, "run", runs["run_id"].str[:8])
    table["commit"] = runs["commit"].str[:8] + runs["uncommitted_changes"].map({"true": " (changed)"}).fillna("")
    table["computed by"] = runs["engine"] + " " + runs["products"].str.replace("-", "") + " on " + runs["device"]
    table["threads"] = runs["threads"]
    return table.rename(columns={"test_neg_elbo": "test negative ELBO"})


def machine_table(evidence: Evidence) -> pd.DataFrame:
    """Return the hardware and versions that the runs used."""
    return _used(evidence).groupby(["cpu", "python", "torch"]).size().rename("runs").reset_index()


def _used(evidence: Evidence) -> pd.DataFrame:
    runs = evidence.tables.runs
    return runs[runs["comparable"].astype(bool) | diverged(runs)]


def commands(evidence: Evidence) -> pd.DataFrame:
    """Return the commands that repeat the runs of the report, on as many threads as they had."""
    rows = []
    for (name, threads), runs in _used(evidence).groupby(["experiment", "threads"]):
        seeds = f"--seeds {seed_list(sorted(runs['seed'].astype(int)))}"
        rows.append({"experiment": name, "command": f"python -m repro run {name} {seeds} --threads {threads}"})
    return pd.DataFrame(rows, columns=["experiment", "command"])


def _estimate(measurement: Measurement, quantity: str, group: str) -> str:
    try:
        row = measurement.row(quantity, group)
    except MissingError:
        return "-"
    if float(row["value"]).is_integer():
        return f"{row['value']:,.0f}"
    error = row["standard_error"]
    return f"{row['value']:.2f}" + (f" ± {error:.2f}" if pd.notna(error) else "") + f" {row['unit']}"


def all_verdicts(entries: list[Entry], tables: Tables) -> list[Verdict]:
    """Return one verdict for each reported result of these experiments."""
    return [each for entry in entries for each in verdicts(entry, tables)]


def records(found: list[Verdict]) -> list[dict[str, Any]]:
    """Return verdicts as dictionaries for JSON and CSV."""
    return [asdict(each) | {"number_reached": each.number_reached, "one_of_ours": each.one_of_ours} for each in found]


def as_csv(found: list[Verdict]) -> str:
    """Return verdicts as CSV with a header. Spaces separate the parts of a list, semicolons those of `failures`."""
    rows = [
        record
        | {key: " ".join(map(str, record[key])) for key in ("seeds", "outside")}
        | {"failures": "; ".join(record["failures"])}
        for record in records(found)
    ]
    return str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def verdict_rows(found: list[Verdict]) -> list[dict[str, Any]]:
    """Return verdicts as rows of a table. Costs are in nats per image."""
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
    """Return what was planned for each verdict and what came of it, as rows of a table."""
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


def curve_rows(entries: list[Entry], tables: Tables) -> list[dict[str, Any]]:
    """Return each published curve's place among ours, as rows; none where too few planned runs have finished.

    Raises ReproError if a published curve is damaged.
    """
    rows: list[dict[str, Any]] = []
    for entry in entries:
        for reported in entry.spec.reported:
            found = curves.place(entry, reported, tables)
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


def run_rows(entries: list[Entry], tables: Tables) -> list[dict[str, Any]]:
    """Return one row a run, newest first in each experiment."""
    rows: list[dict[str, Any]] = []
    for entry in entries:
        mine = tables.runs[tables.runs["experiment"] == entry.name].sort_values("started", ascending=False)
        for raw in mine.to_dict("records"):
            run: dict[str, Any] = {key: None if pd.isna(value) else value for key, value in raw.items()}
            named = {"run": run["run_id"][:8], "note": run["reason"]}
            rows.append({key: run.get(key) for key in RUN_COLUMNS} | named)
    return rows
