"""The page of the report: the text `assets/report.md`, with tables and figures from the evidence."""

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from string import Template

import pandas as pd
from matplotlib.figure import Figure as Plot
from repro.analysis import curves, variants, verdicts
from repro.analysis.claims import Evidence, judge
from repro.analysis.claims.evidence import Measurement, MissingError, evaluate_command, result_at, run_command
from repro.analysis.plots import runs as plots
from repro.analysis.report import document, readme
from repro.analysis.report import sweeps as sweep_parts
from repro.analysis.report.document import Contents, Figure, Page, Part, Table, drawn
from repro.analysis.report.summary import NOTEBOOK, cards, groups, in_order
from repro.analysis.sweeps import Sweeps
from repro.analysis.tables import Row, Tables, all_entries, diverged
from repro.analysis.verdicts import MEANINGS, Verdict

from repro import images, names, registry
from repro.errors import ReproError
from repro.registry import Entry

PICTURES = {
    "samples": ("A hundred samples of {name}", "means of p(x|z) of a hundred z ~ N(0, I), as in the notebook"),
    "originals_and_reconstructions": (
        "Test images and reconstructions of {name}",
        "each row of test images stands above its reconstructions",
    ),
    "walk": (
        "Walks in the latent space of {name}",
        "each row goes along a straight line from one test image's latent mean to another's",
    ),
    "traversals": (
        "Traversals of the latent dimensions of {name}",
        "each row changes one dimension from -3 to 3; the most active dimension comes first",
    ),
    "samples_most_confident": ("Samples of {name} with the highest confidence of a classifier", "fifty samples"),
    "samples_least_confident": ("Samples of {name} with the lowest confidence of a classifier", "fifty samples"),
}
"""Title and description of each sheet of images that a measurement makes."""
MEASUREMENT_OF = {"samples_most_confident": "digits", "samples_least_confident": "digits"}
"""The measurement that makes a sheet, if it is not `latents`."""
PLOTS: dict[str, tuple[str, Callable[..., Plot | list[Plot]], str]] = {
    "evaluation": (
        "kl_by_dimension",
        plots.kl_by_dimension,
        f"KL of each latent dimension, active if its mean has a variance over images above {names.ACTIVE_VARIANCE:g}",
    ),
    "latents": ("latent_map", plots.latent_map, "Latent means of test images in two dimensions, by class"),
    "gradients": (
        "gradient_variance",
        plots.gradient_variance,
        "Variance of the encoder's gradient by estimator during training, one draw of z for each image",
    ),
    "digits": ("confidence", plots.confidence, "Confidence of a classifier of handwritten digits"),
    "spectrum": ("spectrum", plots.spectrum, "Spectral energy by frequency, of data, reconstructions and samples"),
}
"""By measurement: the plot's name, the function that draws it, and what it shows."""
SHOWN = {"evaluation", "latents"}
"""The measurements whose plots are not folded."""
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
RUN_COLUMNS = ["experiment", "run", "status", "seed", "epochs", "cost", "test_neg_elbo", "data", "note"]


def build(evidence: Evidence, sweeps: Sweeps, pictures: Path) -> Page:
    """Return the page of the evidence. A part whose evidence is missing names the command that makes it.

    `pictures` is the folder with the sheets of images.
    """
    meanings = " ".join(f"{word.capitalize()}: {meaning}." for word, meaning in MEANINGS.items())
    template = Template((document.ASSETS / "report.md").read_text(encoding="utf-8"))
    text = template.substitute(meanings=meanings, level=curves.LEVEL, active=f"{names.ACTIVE_VARIANCE:g}")
    contents = _verdicts(evidence) | _curves(evidence) | _claims(evidence) | _variants(evidence) | _provenance(evidence)
    contents |= _models(evidence, pictures) | sweep_parts.parts(sweeps, evidence.tables)
    found = document.filled(text, cards(evidence), contents)
    return replace(found, summary=readme.table(in_order(evidence)), readme=_readme(evidence, pictures))


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
    table = pd.DataFrame([each for each in found if each.difference is not None and each.margin])
    shares = [f"{row.experiment} at epoch {row.epoch} {row.difference / row.margin:+.2f}" for row in table.itertuples()]
    alt = f"Difference between the mean and the reported cost, in margins: {'; '.join(shares)}"
    draw = partial(plots.verdicts, table)
    return {
        "verdicts": _spaced(verdicts.rows(found)),
        "plan": _spaced(verdicts.plan_rows(found)),
        "verdict_intervals": [drawn("verdict_intervals", draw, alt)] if len(table) else [],
    }


def _curves(evidence: Evidence) -> Contents:
    ranks = _spaced(curves.rows(all_entries(), evidence.tables))
    drawn_of = [_curve(evidence, each) for each in in_order(evidence)]
    return {
        "curves": [Table("curves", ranks)] if len(ranks) else [],
        "curves_of_the_notebook": drawn_of[: len(NOTEBOOK)],
        "curves_of_its_earlier_version": drawn_of[len(NOTEBOOK) :],
    }


def _curve(evidence: Evidence, verdict: Verdict) -> Part:
    entry, reported = registry.get(verdict.experiment), result_at(verdict.experiment, verdict.epoch)
    name, runs = f"{entry.name}, epochs 1 to {reported.epoch}", evidence.planned(entry.name, reported.epoch)
    command = f"`{run_command(entry.name, reported.epoch, reported.seeds)}`"
    try:
        published = images.reported_curve(entry.file, reported)
    except ReproError as error:
        return f"{name}: {error}."
    mine = _planned_curves(evidence, verdict.experiment, verdict.epoch)
    if mine.empty:
        return f"{name}: no planned seed has finished yet; {command}."
    return drawn(
        f"curves_{entry.name}_{reported.epoch}",
        partial(plots.cost_curves, mine, published),
        f"Training cost of {name}, and the published curve",
        f"{name}, on {runs['data'].iloc[0]}: {command}.",
        runs=list(runs["run_id"]),
    )


def _planned_curves(evidence: Evidence, experiment: str, epoch: int) -> pd.DataFrame:
    mine = evidence.tables.curves_of(evidence.planned(experiment, epoch))
    return mine[mine["epoch"] <= epoch]


def _readme(evidence: Evidence, pictures: Path) -> Figure | None:
    """Return the picture of README.md: the notebook's first result beside samples, if there are any."""
    entry, sheet = registry.get(NOTEBOOK[0]), pictures / f"{NOTEBOOK[0]}_samples.png"
    reported = entry.spec.reported[-1]
    mine = _planned_curves(evidence, entry.name, reported.epoch)
    with suppress(ReproError):
        published = images.reported_curve(entry.file, reported)
        draw = partial(plots.readme, mine, published, images.read_png(sheet) if sheet.exists() else None)
        return drawn("readme", draw, f"Training cost of {entry.name}, and samples") if len(mine) else None
    return None


def _claims(evidence: Evidence) -> Contents:
    judged = judge(evidence)
    table = pd.DataFrame([vars(claim) | vars(finding) for claim, finding in judged])
    columns = {"name": "claim", "sentence": "notebook", "measurement": "measured", "criterion": "decides"}
    table = table.rename(columns=columns)
    return {
        "claims_by_verdict": groups(judged),
        "claims": table[["claim", "notebook", "verdict", "evidence"]],
        "criteria": table[["claim", "measured", "decides"]],
    }


def _variants(evidence: Evidence) -> Contents:
    table = variants.table(evidence)
    tests = {"test_neg_elbo": "test", "baseline_test": "baseline test"}
    columns = ["variant", "change", "seeds", "epoch", "cost", "baseline", "difference", "interval", "pairs"]
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
        "variants": table[[*columns, *tests, "note"]].rename(columns=tests | {"interval": "95% interval"}),
        "network_and_rate": [drawn("network_and_rate", partial(plots.several, mean), both)] if len(mean) > 1 else [],
    }


def _models(evidence: Evidence, pictures: Path) -> Contents:
    """Return the parts on samples and on measurements. `pictures` is the folder of the sheets of images."""
    sheets = partial(_sheets, evidence, pictures)
    first, *others = NOTEBOOK
    no_samples = f"There are none yet: `{evaluate_command('RUN_ID', 'latents')}`, then `report --update`."
    confident = sheets([first], ["samples_most_confident", "samples_least_confident"])
    return {
        "samples": sheets(NOTEBOOK, ["samples", "originals_and_reconstructions"]) or [no_samples],
        "evaluation": [_evaluations(evidence)],
        "measurements": _plots(evidence, SHOWN) + sheets([first], ["walk", "traversals"]),
        "more_of_models": _plots(evidence, PLOTS.keys() - SHOWN) + confident + sheets(others, ["walk", "traversals"]),
    }


def _evaluations(evidence: Evidence) -> Part:
    columns: dict[str, list[str]] = {}
    for name in NOTEBOOK:
        with suppress(MissingError):
            measurement = evidence.measurement(name, "evaluation")
            columns[name] = [_estimate(measurement, *which) for which in EVALUATED]
    if not columns:
        return f"No run has been evaluated yet: `{evaluate_command('RUN_ID', 'evaluation')}`, then `report --update`."
    return Table("evaluation", pd.DataFrame({"quantity": EVALUATED.values(), **columns}))


def _estimate(measurement: Measurement, quantity: str, group: str) -> str:
    try:
        row = measurement.row(quantity, group)
    except MissingError:
        return "-"
    if float(row["value"]).is_integer():
        return f"{row['value']:,.0f}"
    error = row["standard_error"]
    return f"{row['value']:.2f}" + (f" ± {error:.2f}" if pd.notna(error) else "") + f" {row['unit']}"


def _plots(evidence: Evidence, kinds: Collection[str]) -> list[Part]:
    """Return the plots of these kinds of measurements."""
    found: list[Part] = []
    for name, (kind, (plot, draw, what)) in product(NOTEBOOK, PLOTS.items()):
        if kind not in kinds:
            continue
        with suppress(MissingError):
            measured = evidence.measurement(name, kind)
            classes = names.CLASSES.get(registry.get(name).spec.data.name) if kind == "latents" else None
            plotted = partial(draw, measured.rows, **({"classes": classes} if classes else {}))
            run_id, alt = measured.run_id, f"{what} of {name}"
            caption = f"{what}: {name}, run {run_id[:8]}, `{evaluate_command(run_id[:8], kind)}`."
            try:
                found.append(drawn(f"{plot}_{name}", plotted, alt, caption, runs=(run_id,)))
            except (LookupError, ValueError, TypeError):  # rows by another version of the code
                found.append(f"measurement {kind} cannot be drawn; `{evaluate_command(run_id, kind)}`.")
    return found


def _sheets(evidence: Evidence, folder: Path, experiments: Iterable[str], kinds: Iterable[str]) -> list[Part]:
    """Return the sheets of images of experiments that are in a folder, without logging them to their runs again."""
    found: list[Part] = []
    for name, kind in product(experiments, kinds):
        path, measurement = folder / f"{name}_{kind}.png", MEASUREMENT_OF.get(kind, "latents")
        with suppress(MissingError):
            command = evaluate_command(evidence.measurement(name, measurement).run_id[:8], measurement)
            title, how = (text.format(name=name) for text in PICTURES[kind])
            if path.exists():
                found.append(Figure(path.stem, title, f"{title}: {how}. `{command}`", images.read_png(path)))
    return found


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
