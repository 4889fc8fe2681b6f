"""The sections of the report, from the evidence."""

from functools import partial
from pathlib import Path

import pandas as pd
from repro.analysis import curves, variants
from repro.analysis.claims import Evidence
from repro.analysis.claims.evidence import MissingError, run_command
from repro.analysis.plots import runs as plots
from repro.analysis.report import searches, summary
from repro.analysis.report.document import Card, Page, Part, Prose, Section, Table
from repro.analysis.report.figures import ACTIVE_VARIANCE, drawn, of_measurements, sheets
from repro.analysis.report.summary import NOTEBOOK, spaced
from repro.analysis.sweeps import Sweeps
from repro.analysis.tables import all_entries
from repro.analysis.verdicts import MEANINGS

from repro import images
from repro.errors import ReproError
from repro.registry import Entry
from repro.spec import Reported


def build(evidence: Evidence, sweeps: Sweeps, pictures: Path) -> Page:
    """Return the page of the evidence. A part whose evidence is missing names the command that makes it.

    `pictures` is the folder with the sheets of images.
    """
    three = summary.in_order(evidence)[: len(NOTEBOOK)]
    return Page(
        "Are the reported costs of three variational autoencoders reproduced?",
        "This report repeats three experiments of the notebook Variational Autoencoder. It says whether their numbers "
        "are reproduced, how sure that is, and which settings matter.",
        [Card(verdict.experiment, verdict.label, summary.headline(verdict)) for verdict in three],
        [
            _verdicts(evidence),
            _curves(evidence),
            _samples(evidence, pictures),
            _claims(evidence),
            _variants(evidence),
            searches.section(sweeps, evidence.tables),
            _models(evidence, pictures),
            _provenance(evidence),
        ],
    )


def _verdicts(evidence: Evidence) -> Section:
    verdicts = summary.in_order(evidence)
    meanings = " ".join(f"{word.capitalize()}: {meaning}." for word, meaning in MEANINGS.items())
    parts: list[Part] = [
        Prose(
            "The margin and the seeds of each reported cost were fixed before the runs. Each cost is judged once, when "
            f"all of these seeds have an outcome. {meanings} The margin is 2% of what can be learned: of the reported "
            "cost less the entropy floor, which is the mean entropy of the training pixels. docs/verdicts.md says how "
            "often such a verdict is wrong."
        ),
        Table(
            "verdicts",
            spaced(summary.verdict_rows(verdicts)),
            "Verdicts from `python -m repro compare`. Costs are in nats per image. `95% for one more` is the "
            "prediction interval for one more run.",
        ),
        Table(
            "plan",
            spaced(summary.plan_rows(verdicts)),
            "The plan of each result: its seeds, and the commit that fixed seeds and margin before the first run. "
            "`of excess` is the difference as a share of what can be learned. `half 95% of excess` is half the width "
            "of the prediction interval as such a share. `t` is the place of the published run in the prediction "
            "distribution.",
        ),
    ]
    intervals = summary.interval_table(evidence)
    if len(intervals):
        alt = "; ".join(
            f"{row['experiment']} at epoch {row['epoch']} {row['difference'] / row['margin']:+.2f}"
            for row in intervals.to_dict("records")
        )
        figure = drawn(
            "verdict_intervals",
            lambda: plots.verdicts(intervals),
            f"Difference of the mean cost from the reported one in margins: {alt}",
            "Difference from the reported cost, in margins. The thick bar is the 90% interval of the mean; a cost is "
            "reproduced if this bar lies in the shaded zone. The thin bar is the 95% prediction interval for one more "
            "run.",
        )
        parts.append(figure)
    return Section("Verdicts", "verdicts-section", parts)


def _curves(evidence: Evidence) -> Section:
    parts: list[Part] = [
        Prose(
            "A published curve is taken as one more run. The distance of a curve is the largest difference over the "
            "epochs between the curve and the mean of the others, in standard deviations of the others or in reading "
            "errors, whichever is larger. Rank 1 is the farthest curve, and p is rank / (n + 1). A published curve "
            f"whose p is at most {curves.LEVEL} is unlike ours. An earlier criterion compared one run with a mean, at "
            "the epochs of half and nine tenths of the fall, on misread curves; it did not hold for any of the three."
        )
    ]
    rows = summary.curve_rows(all_entries(), evidence.tables)
    if rows:
        parts.append(
            Table("curves", spaced(rows), "The rank of each published curve among those of the planned seeds.")
        )
    parts.append(
        Prose(
            "The published curve of mnist_conv_lr_1e3 is printed in the notebook; the others were read off plots, and "
            "the grey band is the reading error. Each thin line is a planned seed, the thick line is their mean, and "
            "the blue band is their range."
        )
    )
    parts += [_curve(evidence, entry, reported) for entry in all_entries() for reported in entry.spec.reported]
    return Section("Curves", "curves-section", parts)


def _curve(evidence: Evidence, entry: Entry, reported: Reported) -> Part:
    name, runs = f"{entry.name}, epochs 1 to {reported.epoch}", evidence.planned(entry.name, reported.epoch)
    command = f"`{run_command(entry.name, reported)}`"
    try:
        published = images.reported_curve(entry.file, reported)
    except ReproError as error:
        return Prose(f"{name}: {error}.")
    mine = evidence.curves_of(runs)
    mine = mine[mine["epoch"] <= reported.epoch]
    if mine.empty:
        return Prose(f"{name}: no planned seed has finished yet; {command}.")
    return drawn(
        f"curves_{entry.name}_{reported.epoch}",
        partial(plots.cost_curves, mine, published),
        f"Training cost of {name}, over the published one",
        f"{name}, on {runs['data'].iloc[0]}: {command}.",
        runs=list(runs["run_id"]),
    )


def _samples(evidence: Evidence, pictures: Path) -> Section:
    kinds = ("samples", "originals_and_reconstructions")
    parts = [part for name in NOTEBOOK for part in sheets(evidence, pictures, name, kinds)]
    if not parts:
        parts = [
            Prose("There are none yet: `python -m repro evaluate RUN_ID --study latents`, then `report --update`.")
        ]
    return Section("Samples", "samples-section", parts)


def _claims(evidence: Evidence) -> Section:
    text = (
        "These are the claims of the notebook that can be checked, with what the runs say. The criteria are in the "
        "table below. A claim that does not hold is a result too."
    )
    table = Table("claims", summary.claim_table(evidence), "Claims of the notebook. From `python -m repro claims`.")
    criteria = Table("criteria", summary.criteria_table(), "What is measured for each claim, and what decides it.")
    return Section("Claims of the notebook", "claims-section", [Prose(text), table], [criteria])


def _variants(evidence: Evidence) -> Section:
    table = variants.table(evidence)
    shown = table[["variant", "change", "note", "seeds", "epoch", "cost", "baseline", "difference"]].copy()
    shown[["test", "baseline test", "data"]] = table[["test_neg_elbo", "baseline_test", "data"]]
    parts: list[Part] = [
        Prose(
            "Each variant differs from one of the experiments in one setting. Its training cost is compared with that "
            "of the experiment at the same epoch. `test` is the test negative ELBO."
        )
    ]
    if table["difference"].notna().any():
        figure = drawn(
            "variants_plot",
            lambda: plots.variants(table),
            "Difference in cost of each variant from its experiment, nats per image",
            "Cost of each variant that can be compared, less that of its experiment at the same epoch. Bars show the "
            "range over the seeds of both.",
        )
        parts.append(figure)
    caption = "The effect of one setting on the cost, nats per image. From `python -m repro run VARIANT`."
    parts.append(Table("variants", shown, caption))
    four = {"fully connected, 1e-3": "mnist_fc", "convolutional, 1e-3": "mnist_conv_lr_1e3"}
    four |= {"fully connected, 1e-4": "mnist_fc_lr_1e4", "convolutional, 1e-4": "mnist_conv"}
    found = {label: _mean_curve(evidence, name) for label, name in four.items()}
    present = {label: curve for label, curve in found.items() if curve is not None}
    if len(present) > 1:
        figure = drawn(
            "network_and_rate",
            lambda: plots.several(present),
            "Training cost against epoch of " + ", ".join(present),
            "Both networks on MNIST at both learning rates. The plot separates the effect of the architecture from "
            "that of the rate and the number of epochs.",
        )
        parts.append(figure)
    return Section("Settings that matter", "variants-section", parts)


def _models(evidence: Evidence, pictures: Path) -> Section:
    parts: list[Part] = [
        Table(
            "evaluation",
            summary.evaluation_table(evidence),
            "The final weights on test images, ± Monte Carlo standard error, from `python -m repro evaluate RUN_ID` "
            "with `--images`, `--samples` and `--draws` as in the rows. log p(x) is a lower bound that rises with the "
            "number of draws, on a part of the test images: compare it with the ELBO of these images. On grey pixels "
            "the Bernoulli log p(x) is not a likelihood of binary data, and cannot be compared with tables for "
            "binarised MNIST. A unit is active if its mean has a variance over images above "
            f"{ACTIVE_VARIANCE:g}.",
        )
    ]
    for name in NOTEBOOK:
        parts += of_measurements(evidence, name)
    parts += sheets(evidence, pictures, "mnist_fc", ("walk", "traversals"))
    folded = sheets(evidence, pictures, "mnist_fc", ("samples_most_confident", "samples_least_confident"))
    for name in NOTEBOOK[1:]:
        folded += sheets(evidence, pictures, name, ("walk", "traversals"))
    return Section("Inside the models", "models-section", parts, folded)


def _provenance(evidence: Evidence) -> Section:
    parts: list[Part] = [
        Prose(
            "Every number above is from one of these runs. With the same versions, the same number of threads and the "
            "same kind of processor, training a run again gives the same bits: `python -m repro verify RUN_ID`."
        ),
        Table("machines", summary.machine_table(evidence), "Hardware and versions."),
        Table(
            "commands",
            summary.commands(evidence),
            "Commands that repeat the runs. Add `--jobs N --threads N` to train several at a time.",
        ),
    ]
    caption = (
        "The runs. Costs are in nats per image. (changed): the working tree had uncommitted changes, so the commit "
        "alone does not determine the code."
    )
    runs = Table("runs", summary.run_table(evidence), caption, digits=4)
    return Section("Provenance", "provenance-section", parts, [runs])


def _mean_curve(evidence: Evidence, name: str) -> pd.Series | None:
    try:
        return curves.table_of(evidence.curves(name)).mean(axis=1)
    except MissingError:
        return None
