"""The report: its sections, from the evidence."""

from functools import partial

import pandas as pd
from repro.analysis import ablations, compare, content, curves, figures, plots, searched
from repro.analysis.claims import Evidence
from repro.analysis.claims.claim import MissingError, run_command
from repro.analysis.curves import table_of
from repro.analysis.figures import Files, Part
from repro.analysis.page import Card, Page, Prose, Section, Table
from repro.analysis.sweeps import Sweeps
from repro.analysis.verdicts import MEANINGS

from repro import registry
from repro.errors import ReproError
from repro.figures import reported_curve as published_curve
from repro.registry import Entry
from repro.spec import Reported


def build(evidence: Evidence, sweeps: Sweeps, files: Files) -> Page:
    """The page that the evidence makes. A part whose evidence is missing says how to get it."""
    three = content.in_order(evidence)[: len(content.SETUPS)]
    cards = [Card(verdict.experiment, verdict.label, content.headline(verdict)) for verdict in three]
    lead = (
        "Three experiments of the notebook Variational Autoencoder, run again: are its numbers reproduced, how sure is "
        "that, and what does it hinge on?"
    )
    return Page(
        "Are the reported costs of three variational autoencoders reproduced?",
        lead,
        cards,
        [
            _verdicts(evidence),
            _curves(evidence),
            _samples(evidence, files),
            _claims(evidence),
            _ablations(evidence),
            searched.section(sweeps, evidence.frames),
            _inside(evidence, files),
            _provenance(evidence),
        ],
    )


def _verdicts(evidence: Evidence) -> Section:
    table = Table(
        "verdicts",
        content.verdict_table(evidence),
        "Costs in nats per image. `95% for one more` is the prediction interval for one more run. From "
        "`python -m repro compare`.",
    )
    plan = Table(
        "plan",
        content.plan_table(evidence),
        "The plan of each result: its seeds, and the commit that fixed seeds and margin before the first of them ran. "
        "`of excess` is the difference as a share of what can be learned, `half 95% of excess` half the width of the "
        "prediction interval as such a share, `t` the published run's place in the prediction distribution.",
    )
    meanings = " ".join(f"{word.capitalize()}: {meaning}." for word, meaning in MEANINGS.items())
    text = (
        "Each reported cost has a margin and seeds that were fixed before the runs, and is judged once, when all of "
        f"these seeds have an outcome. {meanings} The margin is 2% of what can be learned, the reported cost less the "
        "entropy floor, which is the mean entropy of the training pixels. How often such a verdict is wrong stands in "
        "docs/verdicts.md."
    )
    intervals = content.interval_table(evidence)
    figure = figures.drawn(
        "verdict_intervals",
        lambda: plots.verdicts(intervals),
        "Difference of the mean cost from the reported one in margins: "
        + "; ".join(
            f"{row['experiment']} at epoch {row['epoch']} {row['difference'] / row['margin']:+.2f}"
            for row in intervals.to_dict("records")
        ),
        "Difference from the reported cost in units of each result's margin. The thick bar is the 90% interval of the "
        "mean, which has to lie in the shaded zone; the thin one the 95% prediction interval for one more run.",
    )
    parts: list[Part] = [Prose(text), table, plan, *([figure] if len(intervals) else [])]
    return Section("Verdicts", "verdicts-section", parts)


def _curves(evidence: Evidence) -> Section:
    parts: list[Part] = [
        Prose(
            "A published curve is taken as one more run. The distance of a curve is its largest distance over the "
            "epochs from the mean of the others, in their standard deviations, but at least in reading errors; rank 1 "
            f"is the farthest out, and a curve whose p = rank / (n + 1) is at most {curves.LEVEL} is unlike ours. An "
            "earlier criterion, on the epochs of half and nine tenths of the fall, compared one run with a mean on "
            "misread curves: it did not hold for any of the three."
        )
    ]
    entries = [registry.get(name) for name in registry.names()]
    rows = compare.curve_rows(entries, evidence.frames)
    if rows:
        frame = pd.DataFrame(rows).rename(columns=lambda name: name.replace("_", " "))
        parts.append(Table("curves", frame, "Where each published curve stands among those of the planned seeds."))
    parts.append(
        Prose(
            "The published curves were read off plots, except that of mnist_conv_lr_1e3, which is printed; the grey "
            "band is the error of the reading. Each thin line is a planned seed, the thick one their mean, the blue "
            "band from the lowest to the highest."
        )
    )
    for entry in entries:
        for reported in entry.spec.reported:
            parts.append(_curve(evidence, entry, reported))
    return Section("Curves", "curves-section", parts)


def _curve(evidence: Evidence, entry: Entry, reported: Reported) -> Part:
    name, runs = f"{entry.name}, epochs 1 to {reported.epoch}", evidence.planned(entry.name, reported.epoch)
    try:
        published = published_curve(entry.file, reported)
    except ReproError as error:
        return Prose(f"{name}: {error}.")
    mine = evidence.curves_of(runs)
    mine = mine[mine["epoch"] <= reported.epoch]
    if mine.empty:
        return Prose(f"{name}: no planned seed has finished yet; `{run_command(entry.name, reported)}`.")
    return figures.drawn(
        f"curves_{entry.name}_{reported.epoch}",
        partial(plots.cost_curves, mine, published),
        f"Training cost of {name}, over the published one",
        f"{name}, on {runs['data'].iloc[0]}: `{run_command(entry.name, reported)}`.",
        runs=list(runs["run_id"]),
    )


def _samples(evidence: Evidence, files: Files) -> Section:
    parts: list[Part] = []
    for name in content.SETUPS:
        parts += figures.sheets(evidence, files, name, ("samples", "originals_and_reconstructions"))
    if not parts:
        parts.append(Prose("None yet: `python -m repro evaluate RUN_ID --study latents`, then `report --update`."))
    return Section("Samples", "samples-section", parts)


def _claims(evidence: Evidence) -> Section:
    text = (
        "Every sentence of the text that can be checked, with what the runs say; the criteria stand below. A claim "
        "that does not hold is no less a result."
    )
    table = Table("claims", content.claim_table(evidence), "The text's claims. From `python -m repro claims`.")
    criteria = Table("criteria", content.criteria_table(), "What was measured, and what decides.")
    return Section("Claims of the text", "claims-section", [Prose(text), table], [criteria])


def _ablations(evidence: Evidence) -> Section:
    table = ablations.table(evidence)
    shown = table[["variant", "change", "note", "seeds", "epoch", "cost", "baseline", "difference"]].copy()
    shown[["test", "baseline test", "data"]] = table[["test_neg_elbo", "baseline_test", "data"]]
    parts: list[Part] = [
        Prose(
            "Each variant differs from one of the experiments in one setting, and is compared with it at the same "
            "epoch, in training cost; `test` is the test negative ELBO. The range is over the experiment's seeds."
        ),
        Table(
            "ablations", shown, "What one factor does to the cost, nats per image. From `python -m repro run VARIANT`."
        ),
    ]
    if table["difference"].notna().any():
        figure = figures.drawn(
            "ablations_plot",
            lambda: plots.ablations(table),
            "Difference in cost of each variant from its experiment, nats per image",
            "Cost of each variant that can be compared, less that of its experiment at the same epoch; bars over the "
            "experiment's seeds.",
        )
        parts.insert(1, figure)
    four = {"fully connected, 1e-3": "mnist_fc", "convolutional, 1e-3": "mnist_conv_lr_1e3"}
    four |= {"fully connected, 1e-4": "mnist_fc_lr_1e4", "convolutional, 1e-4": "mnist_conv"}
    found = {label: _mean_curve(evidence, name) for label, name in four.items()}
    present = {label: curve for label, curve in found.items() if curve is not None}
    if len(present) > 1:
        parts.append(
            figures.drawn(
                "network_and_rate",
                lambda: plots.several(present),
                "Training cost against epoch of " + ", ".join(present),
                "Both networks on MNIST by learning rate: is it the architecture, or the rate and the epochs?",
            )
        )
    return Section("What it hinges on", "ablations-section", parts)


def _inside(evidence: Evidence, files: Files) -> Section:
    parts: list[Part] = [
        Table(
            "evaluation",
            content.evaluation_table(evidence),
            "What the final weights are worth on test images, ± Monte Carlo standard error. log p(x) is a lower bound "
            "that still rises with the draws, and of few images: to be compared with the ELBO of the same ones. On "
            "grey pixels the Bernoulli log p(x) is not a likelihood of binary data, nor comparable with tables for "
            "binarised MNIST. A unit is active if its mean has a variance over images above "
            f"{figures.ACTIVE:g}. From `python -m repro evaluate RUN_ID`, with `--images`, `--samples` and "
            "`--draws` as in the rows.",
        )
    ]
    for name in content.SETUPS:
        parts += figures.of_studies(evidence, name)
    parts += figures.sheets(evidence, files, "mnist_fc", ("walk", "traversals"))
    folded: list[Part] = [
        *figures.sheets(evidence, files, "mnist_fc", ("samples_most_confident", "samples_least_confident"))
    ]
    for name in content.SETUPS[1:]:
        folded += figures.sheets(evidence, files, name, ("walk", "traversals"))
    return Section("Inside the models", "inside-section", parts, folded)


def _provenance(evidence: Evidence) -> Section:
    parts: list[Part] = [
        Prose(
            "Every number above is from one of these runs. With the same versions, the same thread count and the same "
            "kind of processor a run can be trained again bit for bit: `python -m repro verify RUN_ID`."
        ),
        Table("machines", content.machine_table(evidence), "On what."),
        Table(
            "commands",
            content.commands(evidence),
            "What to type to make them anew; side by side with `--jobs N --threads N`.",
        ),
    ]
    caption = (
        "The runs. Costs in nats per image. (changed): the working tree had more in it than the commit has, so "
        "that the commit alone does not prove the code."
    )
    runs = Table("runs", content.run_table(evidence), caption, digits=4)
    return Section("How it was made", "provenance-section", parts, [runs])


def _mean_curve(evidence: Evidence, name: str) -> pd.Series | None:
    try:
        return table_of(evidence.curves(name)).mean(axis=1)
    except MissingError:
        return None
