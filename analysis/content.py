"""What the report says: the tables behind its sections, from the evidence. No page and no plot here."""

import pandas as pd
from repro.analysis import compare
from repro.analysis.claims import CLAIMS, Evidence, judge
from repro.analysis.claims.claim import Measured, MissingError
from repro.analysis.frames import diverged
from repro.analysis.verdicts import Verdict

from repro.text import seed_list

SETUPS = ("mnist_fc", "mnist_conv", "cifar_conv")
FEW = "images of log p(x)"
EVALUATED = {
    ("test_neg_elbo_many", ""): "test negative ELBO",
    ("test_reconstruction_many", ""): "of it reconstruction",
    ("test_kl_many", ""): "of it KL",
    ("elbo_draws", ""): "draws of z for them",
    ("test_excess_over_floor", ""): "excess over the entropy floor",
    ("log_px_images", ""): "first test images that the next rows are of",
    ("test_log_px", ""): "importance-weighted log p(x)",
    ("log_px_samples", ""): "draws of z for it",
    ("test_neg_elbo_many", FEW): "negative ELBO of the same images",
    ("test_log_px_sampling_error", ""): "standard error of log p(x) over images",
    ("active_units", ""): "active units",
}


def headline(verdict: Verdict) -> str:
    """A verdict in a sentence or two."""
    if verdict.mean is None:
        return f"No run yet: {verdict.reason or f'0 of {verdict.planned} planned seeds'}."
    spread = f" ± {verdict.std:.2f}" if verdict.std is not None else ""
    text = f"{verdict.mean:.2f}{spread} nats over {verdict.n} of {verdict.planned} planned seeds"
    text += f", reported {verdict.reported:.2f} (margin {verdict.margin}): {verdict.difference:+.2f}"
    if verdict.excess_share is not None:
        text += f", {verdict.excess_share:+.2%} of what can be learned"
    if verdict.one_of_ours != "-":
        text += f"; published run one of ours: {verdict.one_of_ours}, p = {verdict.p:.2f}"
    return text + (f"; {verdict.reason}." if verdict.reason else ".")


def in_order(evidence: Evidence) -> list[Verdict]:
    """The verdicts on the notebook's three results in its order, then those on the results of its earlier version."""
    last = {verdict.experiment: verdict for verdict in evidence.verdicts}
    first = [last[name] for name in SETUPS]
    return first + [verdict for verdict in evidence.verdicts if verdict not in first]


def verdict_table(evidence: Evidence) -> pd.DataFrame:
    """One row for each reported result."""
    return _spaced(compare.verdict_rows(in_order(evidence)))


def plan_table(evidence: Evidence) -> pd.DataFrame:
    """What was planned for each reported result, and what came of it."""
    return _spaced(compare.plan_rows(in_order(evidence)))


def _spaced(rows: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows).rename(columns=lambda name: name.replace("_", " "))


def interval_table(evidence: Evidence) -> pd.DataFrame:
    """What the plot of the verdicts needs: one row for each reported result that has a run."""
    columns = ["experiment", "epoch", "reported", "difference", "ci_low", "ci_high", "pi_low", "pi_high", "margin", "n"]
    found = [each for each in in_order(evidence) if each.mean is not None and each.margin]
    table = pd.DataFrame([{key: getattr(each, key) for key in columns} for each in found], columns=columns)
    for key in ("pi_low", "pi_high"):  # as differences from the reported cost, like the rest
        table[key] = table[key].astype(float) - table["reported"].astype(float)
    return table


def claim_table(evidence: Evidence) -> pd.DataFrame:
    """One row for each claim."""
    rows = [
        {"claim": claim.name, "the text": claim.sentence, "verdict": finding.verdict, "evidence": finding.evidence}
        for claim, finding in judge(evidence)
    ]
    return pd.DataFrame(rows, columns=["claim", "the text", "verdict", "evidence"])


def criteria_table() -> pd.DataFrame:
    """How each claim was measured and what decided it."""
    rows = [{"claim": c.name, "measured": c.measurement, "decides": c.criterion} for c in CLAIMS]
    return pd.DataFrame(rows)


def evaluation_table(evidence: Evidence) -> pd.DataFrame:
    """What `evaluate` found of the newest run of each setup: a column for each setup that was evaluated."""
    columns: dict[str, list[str]] = {"quantity": list(EVALUATED.values())}
    for name in SETUPS:
        try:
            study = evidence.measured(name, "evaluation")
        except MissingError:
            continue
        columns[name] = [_estimate(study, *which) for which in EVALUATED]
    return pd.DataFrame(columns)


def run_table(evidence: Evidence) -> pd.DataFrame:
    """Every run that the report stands on."""
    runs = _stood_on(evidence).sort_values(["experiment", "seed"])
    table = runs[["experiment", "seed", "cost", "test_neg_elbo", "data", "started"]].copy()
    table.insert(2, "run", runs["run_id"].str[:8])
    table["commit"] = runs["commit"].str[:8] + runs["uncommitted_changes"].map({"true": " (changed)"}).fillna("")
    table["computed by"] = runs["engine"] + " " + runs["products"].str.replace("-", "") + " on " + runs["device"]
    table["threads"] = runs["threads"]
    return table.rename(columns={"test_neg_elbo": "test negative ELBO"})


def machine_table(evidence: Evidence) -> pd.DataFrame:
    """On what they were computed."""
    return _stood_on(evidence).groupby(["cpu", "python", "torch"]).size().rename("runs").reset_index()


def _stood_on(evidence: Evidence) -> pd.DataFrame:
    runs = evidence.frames.runs
    return runs[runs["comparable"].astype(bool) | diverged(runs)]


def commands(evidence: Evidence) -> pd.DataFrame:
    """What to type to make the runs of the report anew, on as many threads as they had."""
    rows = []
    for (name, threads), runs in _stood_on(evidence).groupby(["experiment", "threads"]):
        seeds = f"--seeds {seed_list(sorted(runs['seed'].astype(int)))}"
        rows.append({"experiment": name, "command": f"python -m repro run {name} {seeds} --threads {threads}"})
    return pd.DataFrame(rows, columns=["experiment", "command"])


def _estimate(study: Measured, quantity: str, group: str) -> str:
    try:
        row = study.row(quantity, group)
    except MissingError:
        return "-"
    if float(row["value"]).is_integer():
        return f"{row['value']:,.0f}"
    error = row["standard_error"]
    return f"{row['value']:.2f}" + (f" ± {error:.2f}" if pd.notna(error) else "") + f" {row['unit']}"
