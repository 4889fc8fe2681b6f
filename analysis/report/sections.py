"""The page of the report: the text `assets/report.md`, with tables and figures from the evidence."""

from contextlib import suppress
from functools import partial
from pathlib import Path
from string import Template

import pandas as pd
from repro.analysis import curves, variants, verdicts
from repro.analysis.claims import Evidence, judge
from repro.analysis.claims.evidence import MissingError, run_command
from repro.analysis.plots import runs as plots
from repro.analysis.report import document, models
from repro.analysis.report import sweeps as sweep_parts
from repro.analysis.report.document import Card, Contents, Page, Part, Table, drawn
from repro.analysis.report.models import NOTEBOOK
from repro.analysis.sweeps import Sweeps
from repro.analysis.tables import Row, Tables, all_entries, diverged
from repro.analysis.verdicts import MEANINGS, Verdict

from repro import images, names
from repro.errors import ReproError
from repro.registry import Entry
from repro.spec import Reported

RUN_COLUMNS = ["experiment", "run", "status", "seed", "epochs", "cost", "test_neg_elbo", "data", "note"]


def build(evidence: Evidence, sweeps: Sweeps, pictures: Path) -> Page:
    """Return the page of the evidence. A part whose evidence is missing names the command that makes it.

    `pictures` is the folder with the sheets of images.
    """
    meanings = " ".join(f"{word.capitalize()}: {meaning}." for word, meaning in MEANINGS.items())
    template = Template((document.ASSETS / "report.md").read_text(encoding="utf-8"))
    text = template.substitute(meanings=meanings, level=curves.LEVEL, active=f"{names.ACTIVE_VARIANCE:g}")
    cards = [Card(each.experiment, each.label, headline(each)) for each in in_order(evidence)[: len(NOTEBOOK)]]
    contents = _verdicts(evidence) | _curves(evidence) | _claims(evidence) | _variants(evidence) | _provenance(evidence)
    contents |= models.parts(evidence, pictures) | sweep_parts.parts(sweeps, evidence.tables)
    return document.filled(text, cards, contents)


def headline(verdict: Verdict) -> str:
    if verdict.mean is None:
        return f"No run yet: {verdict.reason or f'0 of {verdict.planned} planned seeds'}."
    deviation = f" (standard deviation {verdict.std:.2f})" if verdict.std is not None else ""
    text = f"{verdict.mean:.2f} nats{deviation} over {verdict.n} of {verdict.planned} planned seeds"
    text += f", reported {verdict.reported:.2f} (margin {verdict.margin}): {verdict.difference:+.2f}"
    if verdict.excess_share is not None:
        text += f", {verdict.excess_share:+.2%} of what can be learned"
    if verdict.decided:
        text += f"; published run one of ours: {verdict.one_of_ours}, p = {verdict.p:.2f}"
    return text + (f"; {verdict.reason}." if verdict.reason else ".")


def in_order(evidence: Evidence) -> list[Verdict]:
    """Return the verdicts on the notebook's three results, then those on the results of its earlier version."""
    last = {verdict.experiment: verdict for verdict in evidence.verdicts}
    first = [last[name] for name in NOTEBOOK]
    return first + [verdict for verdict in evidence.verdicts if verdict not in first]


def run_rows(entries: list[Entry], tables: Tables) -> list[Row]:
    """Return a row for each run, newest first in each experiment."""
    runs = pd.concat([tables.runs_of(entry.name).sort_values("started", ascending=False) for entry in entries])
    runs = runs.assign(run=runs["run_id"].str[:8], note=runs["reason"])[RUN_COLUMNS].astype(object)
    rows: list[Row] = runs.where(runs.notna(), None).to_dict("records")
    return rows


def _spaced(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows).rename(columns=lambda name: name.replace("_", " "))


def _verdicts(evidence: Evidence) -> Contents:
    found = in_order(evidence)
    judged = [each for each in found if each.difference is not None and each.margin]
    shares = [f"{each.experiment} at epoch {each.epoch} {each.difference / each.margin:+.2f}" for each in judged]
    alt = f"Difference between the mean and the reported cost, in margins: {'; '.join(shares)}"
    draw = partial(plots.verdicts, pd.DataFrame(judged))
    return {
        "verdicts": _spaced(verdicts.rows(found)),
        "plan": _spaced(verdicts.plan_rows(found)),
        "verdict_intervals": [drawn("verdict_intervals", draw, alt)] if judged else [],
    }


def _curves(evidence: Evidence) -> Contents:
    ranks = _spaced(curves.rows(all_entries(), evidence.tables))
    results = [(entry, reported) for entry in all_entries() for reported in entry.spec.reported]
    return {
        "curves": [Table("curves", ranks)] if len(ranks) else [],
        "curve_of_each_result": [_curve(evidence, *result) for result in results],
    }


def _curve(evidence: Evidence, entry: Entry, reported: Reported) -> Part:
    name, runs = f"{entry.name}, epochs 1 to {reported.epoch}", evidence.planned(entry.name, reported.epoch)
    command = f"`{run_command(entry.name, reported.epoch, reported.seeds)}`"
    try:
        published = images.reported_curve(entry.file, reported)
    except ReproError as error:
        return f"{name}: {error}."
    mine = evidence.tables.curves_of(runs)
    mine = mine[mine["epoch"] <= reported.epoch]
    if mine.empty:
        return f"{name}: no planned seed has finished yet; {command}."
    return drawn(
        f"curves_{entry.name}_{reported.epoch}",
        partial(plots.cost_curves, mine, published),
        f"Training cost of {name}, and the published curve",
        f"{name}, on {runs['data'].iloc[0]}: {command}.",
        runs=list(runs["run_id"]),
    )


def _claims(evidence: Evidence) -> Contents:
    table = pd.DataFrame([vars(claim) | vars(finding) for claim, finding in judge(evidence)])
    columns = {"name": "claim", "sentence": "notebook", "measurement": "measured", "criterion": "decides"}
    table = table.rename(columns=columns)
    return {
        "claims": table[["claim", "notebook", "verdict", "evidence"]],
        "criteria": table[["claim", "measured", "decides"]],
    }


def _variants(evidence: Evidence) -> Contents:
    table = variants.table(evidence)
    tests = {"test_neg_elbo": "test", "baseline_test": "baseline test"}
    columns = ["variant", "change", "note", "seeds", "epoch", "cost", "baseline", "difference"]
    alt = "Difference in cost of each variant from its experiment, nats per image"
    compared = table["difference"].notna().any()
    mean: dict[str, pd.Series[float]] = {}
    for label, name in (
        ("fully connected, 1e-3", "mnist_fc"),
        ("convolutional, 1e-3", "mnist_conv_lr_1e3"),
        ("fully connected, 1e-4", "mnist_fc_lr_1e4"),
        ("convolutional, 1e-4", "mnist_conv"),
    ):
        with suppress(MissingError):
            mean[label] = evidence.mean_curve(name)
    both = "Training cost against epoch of " + ", ".join(mean)
    return {
        "variants_plot": [drawn("variants_plot", partial(plots.variants, table), alt)] if compared else [],
        "variants": table[[*columns, *tests, "data"]].rename(columns=tests),
        "network_and_rate": [drawn("network_and_rate", partial(plots.several, mean), both)] if len(mean) > 1 else [],
    }


def _provenance(evidence: Evidence) -> Contents:
    runs = evidence.tables.runs
    runs = runs[runs["comparable"] | diverged(runs)].sort_values(["experiment", "seed"])
    commands = [
        {"experiment": name, "command": f"{run_command(name, seeds=tuple(same['seed']))} --threads {threads}"}
        for (name, threads), same in runs.groupby(["experiment", "threads"])
    ]
    table = runs[["experiment", "seed", "run_id", "cost", "test_neg_elbo", "data", "started", "commit"]].copy()
    table["run_id"] = runs["run_id"].str[:8]
    table["commit"] = runs["commit"].str[:8] + runs["uncommitted_changes"].map({"true": " (changed)"}).fillna("")
    table["computed by"] = runs["engine"] + " " + runs["products"].str.replace("-", "") + " on " + runs["device"]
    table["threads"] = runs["threads"]
    table = table.rename(columns={"run_id": "run", "test_neg_elbo": "test negative ELBO"})
    return {
        "machines": runs.groupby(["cpu", "python", "torch"]).size().rename("runs").reset_index(),
        "commands": pd.DataFrame(commands, columns=["experiment", "command"]),
        "runs": [Table("runs", table, digits=4)],
    }
