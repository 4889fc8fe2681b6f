"""What the report says: the tables behind its sections, from the evidence. No page and no plot here."""

import pandas as pd

from analysis import compare
from analysis.claims import CLAIMS, Evidence, judge
from analysis.claims.claim import Measured, MissingError
from analysis.frames import diverged
from analysis.verdicts import Verdict
from repro import registry

SETUPS = ("mnist_fc", "mnist_conv", "cifar_conv")
EVALUATED = {
    "test_neg_elbo_many": "test negative ELBO",
    "test_reconstruction_many": "of it reconstruction",
    "test_kl_many": "of it KL",
    "test_log_px": "importance-weighted log p(x)",
    "log_px_images": "the latter of so many test images",
    "log_px_samples": "and so many draws of z each",
    "active_units": "active units",
    "test_excess_over_floor": "excess over the entropy floor",
}


def headline(verdict: Verdict) -> str:
    """A verdict in a sentence."""
    if verdict.mean is None:
        return f"No verdict yet: {verdict.reason}."
    spread = f" ± {verdict.std:.2f}" if verdict.std is not None else ""
    seeds = f"{verdict.n} seed{'s' * (verdict.n != 1)}"
    text = f"{verdict.mean:.2f}{spread} nats over {seeds}, reported {verdict.reported:.2f}: {verdict.difference:+.2f}"
    if verdict.excess_share is not None:
        text += f", {verdict.excess_share:+.2%} of what can be learned"
    return text + (f"; {verdict.reason}." if verdict.reason else ".")


def verdict_table(evidence: Evidence) -> pd.DataFrame:
    """One row for each setup."""
    found = [evidence.verdicts[name] for name in SETUPS]
    table = pd.DataFrame(compare.verdict_rows(found)).rename(
        columns={"95%_for_one_more": "95%", "of_excess": "of excess"}
    )
    first = ["experiment", "verdict", "reported", "mean", "std"]
    return table[[*first, *(column for column in table if column not in first)]]


def interval_table(evidence: Evidence) -> pd.DataFrame:
    """What the plot of the verdicts needs: one row for each setup that has two seeds or more."""
    found = [evidence.verdicts[name] for name in SETUPS]
    columns = ["experiment", "reported", "difference", "ci_low", "ci_high", "pi_low", "pi_high", "margin", "n"]
    rows = [{key: getattr(each, key) for key in columns} for each in found if each.mean is not None]
    table = pd.DataFrame(rows, columns=columns)
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
        columns[name] = [_estimate(study, quantity) for quantity in EVALUATED]
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


def data_note(evidence: Evidence) -> str:
    """What must be said of the data wherever a number of it stands."""
    labels = {verdict.data for verdict in evidence.verdicts.values() if verdict.data}
    if any("JPEG" in label for label in labels):
        return (
            "The CIFAR-10 images at hand were recoded with JPEG, all but about a tenth of them: its numbers are of "
            "CIFAR-10, JPEG-recoded, not of the canonical data set."
        )
    return ""


def exact_images(evidence: Evidence) -> str:
    """How the images that are known to be exact compare with the recoded ones, if that was measured; "" if not."""
    try:
        study = evidence.measured("cifar_conv", "evaluation")
        count, exact, others = (
            study.value("train_images", "named images"),
            *(study.value("train_excess_over_floor", group) for group in ("named images", "other images")),
        )
    except MissingError:
        return ""
    return (
        f"Of CIFAR-10's training images {count:,.0f} are known to be exact: the trained cifar_conv lies {exact:.2f} "
        f"nats above their entropy floor, and {others:.2f} above that of the other images, which were recoded."
    )


def commands() -> pd.DataFrame:
    """What to type to make the runs of the report anew."""
    rows = []
    for name in registry.names():
        entry = registry.get(name)
        seeds = "--seeds 0-4 --jobs 2" if name == "mnist_fc" else "--seeds 0-2 --jobs 2" if entry.spec.reported else ""
        rows.append({"experiment": name, "command": f"python -m repro run {name} {seeds}".strip()})
    return pd.DataFrame(rows)


def _estimate(study: Measured, quantity: str) -> str:
    try:
        row = study.row(quantity)
    except MissingError:
        return "-"
    if float(row["value"]).is_integer():
        return f"{row['value']:,.0f}"
    error = row["standard_error"]
    return f"{row['value']:.2f}" + (f" ± {error:.2f}" if pd.notna(error) else "") + f" {row['unit']}"
