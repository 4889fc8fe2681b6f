"""The page of the report, from the evidence: verdicts, curves, claims, variants and provenance."""

from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd
from repro.analysis import curves, variants, verdicts
from repro.analysis.claims import Evidence, judge
from repro.analysis.claims.evidence import MissingError, run_command
from repro.analysis.plots import runs as plots
from repro.analysis.report import sweeps as sweeps_section
from repro.analysis.report.document import Card, Page, Part, Section, Table, drawn
from repro.analysis.report.models import NOTEBOOK, models, samples
from repro.analysis.sweeps import Sweeps
from repro.analysis.tables import Row, Tables, all_entries, diverged
from repro.analysis.verdicts import MEANINGS, Verdict

from repro import images
from repro.errors import ReproError
from repro.registry import Entry
from repro.spec import Reported

RUN_COLUMNS = ["experiment", "run", "status", "seed", "epochs", "cost", "test_neg_elbo", "data", "note"]


def build(evidence: Evidence, sweeps: Sweeps, pictures: Path) -> Page:
    """Return the page of the evidence. A part whose evidence is missing names the command that makes it.

    `pictures` is the folder with the sheets of images.
    """
    three = in_order(evidence)[: len(NOTEBOOK)]
    return Page(
        "Are the reported costs of three variational autoencoders reproduced?",
        "This report repeats three experiments of the notebook Variational Autoencoder. It says whether their numbers "
        "are reproduced, how sure that is, and which settings matter.",
        [Card(verdict.experiment, verdict.label, headline(verdict)) for verdict in three],
        [
            _verdicts(evidence),
            _curves(evidence),
            samples(evidence, pictures),
            _claims(evidence),
            _variants(evidence),
            sweeps_section.section(sweeps, evidence.tables),
            models(evidence, pictures),
            _provenance(evidence),
        ],
    )


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


def _verdicts(evidence: Evidence) -> Section:
    found = in_order(evidence)
    meanings = " ".join(f"{word.capitalize()}: {meaning}." for word, meaning in MEANINGS.items())
    parts: list[Part] = [
        "The margin and the seeds of each reported cost were fixed before the runs. Each cost is judged once, when "
        f"all of these seeds have an outcome. {meanings} The margin is 2% of what can be learned: of the reported "
        "cost less the entropy floor, which is the mean entropy of the training pixels. docs/verdicts.md says how "
        "often such a verdict is wrong.",
        Table(
            "verdicts",
            pd.DataFrame(verdicts.rows(found)),
            "Verdicts from `python -m repro compare`. Costs are in nats per image. `95% for one more` is the "
            "prediction interval for one more run.",
        ),
        Table(
            "plan",
            pd.DataFrame(verdicts.plan_rows(found)),
            "The plan of each result: its seeds, and the commit that fixed seeds and margin before the first run. "
            "`of excess` is the difference as a share of what can be learned. `half 95% of excess` is half the width "
            "of the prediction interval as such a share. `t` is the quantile of the published run in the prediction "
            "distribution.",
        ),
    ]
    judged = pd.DataFrame([asdict(each) for each in found if each.mean is not None and each.margin])
    if len(judged):
        margins = [
            f"{row.experiment} at epoch {row.epoch} {row.difference / row.margin:+.2f}" for row in judged.itertuples()
        ]
        figure = drawn(
            "verdict_intervals",
            partial(plots.verdicts, judged),
            f"Difference between the mean and the reported cost, in margins: {'; '.join(margins)}",
            "Difference from the reported cost, in margins. The thick bar is the 90% interval of the mean; a cost is "
            "reproduced if this bar lies in the shaded zone. The thin bar is the 95% prediction interval for one more "
            "run.",
        )
        parts.append(figure)
    return Section("Verdicts", "verdicts-section", parts)


def _curves(evidence: Evidence) -> Section:
    ranks = pd.DataFrame(curves.rows(all_entries(), evidence.tables))
    caption = "The rank of each published curve among the curves of the planned seeds."
    parts: list[Part] = [
        "A published curve is taken as one more run. The distance of a curve is the largest difference over the "
        "epochs between the curve and the mean of the others, in standard deviations of the others or in reading "
        "errors, whichever is larger. Rank 1 is the farthest curve, and p is rank / (n + 1). A published curve "
        f"whose p is at most {curves.LEVEL} is unlike ours. An earlier criterion compared one run with a mean, at "
        "the epochs of half and nine tenths of the fall, on misread curves; it did not hold for any of the three.",
        *([Table("curves", ranks, caption)] if len(ranks) else []),
        "The published curve of mnist_conv_lr_1e3 is printed in the notebook; the others were read off plots, and "
        "the grey band is the reading error. Each thin line is a planned seed, the thick line is their mean, and "
        "the blue band is their range.",
        *(_curve(evidence, entry, reported) for entry in all_entries() for reported in entry.spec.reported),
    ]
    return Section("Curves", "curves-section", parts)


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


def _claims(evidence: Evidence) -> Section:
    text = (
        "These are the claims of the notebook that can be checked, with what the runs say. The criteria are in the "
        "table below. A claim that does not hold is a result too."
    )
    table = pd.DataFrame([vars(claim) | vars(finding) for claim, finding in judge(evidence)])
    columns = {"name": "claim", "sentence": "notebook", "measurement": "measured", "criterion": "decides"}
    table = table.rename(columns=columns)
    found, criteria = table[["claim", "notebook", "verdict", "evidence"]], table[["claim", "measured", "decides"]]
    return Section(
        "Claims of the notebook",
        "claims-section",
        [text, Table("claims", found, "Claims of the notebook. From `python -m repro claims`.")],
        [Table("criteria", criteria, "What is measured for each claim, and what decides it.")],
    )


def _variants(evidence: Evidence) -> Section:
    table = variants.table(evidence)
    parts: list[Part] = [
        "Each variant differs from one of the experiments in one setting. Its training cost is compared with the "
        "experiment's at the same epoch. `test` is the test negative ELBO.",
    ]
    if table["difference"].notna().any():
        figure = drawn(
            "variants_plot",
            partial(plots.variants, table),
            "Difference in cost of each variant from its experiment, nats per image",
            "Cost of each comparable variant less the cost of its experiment at the same epoch. Bars show the range "
            "over the seeds of both.",
        )
        parts.append(figure)
    columns = ["variant", "change", "note", "seeds", "epoch", "cost", "baseline", "difference", "test_neg_elbo"]
    shown = table[[*columns, "baseline_test", "data"]].rename(columns={"test_neg_elbo": "test"})
    caption = "The effect of one setting on the cost, nats per image. From `python -m repro run VARIANT`."
    parts.append(Table("variants", shown, caption))
    present: dict[str, pd.Series[float]] = {}
    for label, name in (
        ("fully connected, 1e-3", "mnist_fc"),
        ("convolutional, 1e-3", "mnist_conv_lr_1e3"),
        ("fully connected, 1e-4", "mnist_fc_lr_1e4"),
        ("convolutional, 1e-4", "mnist_conv"),
    ):
        with suppress(MissingError):
            present[label] = evidence.mean_curve(name)
    if len(present) > 1:
        figure = drawn(
            "network_and_rate",
            partial(plots.several, present),
            "Training cost against epoch of " + ", ".join(present),
            "Both networks on MNIST at both learning rates. The plot separates the effect of the architecture from "
            "the effects of the learning rate and the number of epochs.",
        )
        parts.append(figure)
    return Section("Settings that matter", "variants-section", parts)


def _provenance(evidence: Evidence) -> Section:
    runs = evidence.tables.runs
    runs = runs[runs["comparable"] | diverged(runs)].sort_values(["experiment", "seed"])
    commands = [
        {"experiment": name, "command": f"{run_command(name, seeds=tuple(same['seed']))} --threads {threads}"}
        for (name, threads), same in runs.groupby(["experiment", "threads"])
    ]
    machines = runs.groupby(["cpu", "python", "torch"]).size().rename("runs").reset_index()
    table = runs[["experiment", "seed", "run_id", "cost", "test_neg_elbo", "data", "started", "commit"]].copy()
    table["run_id"] = runs["run_id"].str[:8]
    table["commit"] = runs["commit"].str[:8] + runs["uncommitted_changes"].map({"true": " (changed)"}).fillna("")
    table["computed by"] = runs["engine"] + " " + runs["products"].str.replace("-", "") + " on " + runs["device"]
    table["threads"] = runs["threads"]
    table = table.rename(columns={"run_id": "run", "test_neg_elbo": "test negative ELBO"})
    text = (
        "Every number above is from one of these runs. With the same versions, the same number of threads and the "
        "same kind of processor, training a run again gives the same bits: `python -m repro verify RUN_ID`."
    )
    repeat = "Commands that repeat the runs. Add `--jobs N --threads N` to train several at a time."
    caption = (
        "The runs. Costs are in nats per image. (changed): the working tree had uncommitted changes, so the commit "
        "alone does not determine the code."
    )
    return Section(
        "Provenance",
        "provenance-section",
        [
            text,
            Table("machines", machines, "Hardware and versions."),
            Table("commands", pd.DataFrame(commands, columns=["experiment", "command"]), repeat),
        ],
        [Table("runs", table, caption, digits=4)],
    )
