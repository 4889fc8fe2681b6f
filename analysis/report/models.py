"""The report's parts about trained models: sheets of images, plots of measurements, and the evaluation."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure as Plot
from repro.analysis.claims import Evidence
from repro.analysis.claims.evidence import Measurement, MissingError, evaluate_command
from repro.analysis.plots import runs as plots
from repro.analysis.report.document import Contents, Figure, Part, Table, drawn

from repro import names

NOTEBOOK = ("mnist_fc", "mnist_conv", "cifar_conv")
"""The experiments of the notebook, in its order."""
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
PLOTS: dict[str, tuple[str, Callable[[pd.DataFrame], Plot], str]] = {
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


def parts(evidence: Evidence, pictures: Path) -> Contents:
    """Return the parts on samples and on measurements. `pictures` is the folder of the sheets of images."""

    def sheets(names: Iterable[str], *kinds: str) -> list[Part]:
        return [part for name in names for part in _sheets(evidence, pictures, name, kinds)]

    first, *others = NOTEBOOK
    no_samples = f"There are none yet: `{evaluate_command('RUN_ID', 'latents')}`, then `report --update`."
    table = evaluations(evidence)
    missing = f"No run has been evaluated yet: `{evaluate_command('RUN_ID', 'evaluation')}`, then `report --update`."
    plotted = [part for name in NOTEBOOK for part in _plots(evidence, name)]
    confident = sheets([first], "samples_most_confident", "samples_least_confident")
    return {
        "samples": sheets(NOTEBOOK, "samples", "originals_and_reconstructions") or [no_samples],
        "evaluation": [missing if table.empty else Table("evaluation", table)],
        "measurements": plotted + sheets([first], "walk", "traversals"),
        "more_of_models": confident + sheets(others, "walk", "traversals"),
    }


def evaluations(evidence: Evidence) -> pd.DataFrame:
    columns: dict[str, list[str]] = {}
    for name in NOTEBOOK:
        with suppress(MissingError):
            measurement = evidence.measurement(name, "evaluation")
            columns[name] = [_estimate(measurement, *which) for which in EVALUATED]
    table = pd.DataFrame(columns, index=pd.Index(EVALUATED.values(), name="quantity"))
    return table.reset_index() if columns else pd.DataFrame()


def _estimate(measurement: Measurement, quantity: str, group: str) -> str:
    try:
        row = measurement.row(quantity, group)
    except MissingError:
        return "-"
    if float(row["value"]).is_integer():
        return f"{row['value']:,.0f}"
    error = row["standard_error"]
    return f"{row['value']:.2f}" + (f" ± {error:.2f}" if pd.notna(error) else "") + f" {row['unit']}"


def _plots(evidence: Evidence, name: str) -> list[Part]:
    found: list[Part] = []
    for kind, (plot, draw, what) in PLOTS.items():
        try:
            measured = evidence.measurement(name, kind)
        except MissingError:
            continue
        run_id = measured.run_id
        caption = f"{what}: {name}, run {run_id[:8]}, `{evaluate_command(run_id[:8], kind)}`."
        alt, draw_rows = f"{what} of {name}", partial(draw, measured.rows)
        try:
            found.append(drawn(f"{plot}_{name}", draw_rows, alt, caption, runs=(run_id,)))
        except (LookupError, ValueError, TypeError):  # rows by another version of the code
            found.append(f"measurement {kind} cannot be drawn; `{evaluate_command(run_id, kind)}`.")
    return found


def _sheets(evidence: Evidence, folder: Path, name: str, kinds: tuple[str, ...]) -> list[Part]:
    """Return the sheets of images of an experiment that are in a folder, without logging them to their runs again."""
    found: list[Part] = []
    for kind in kinds:
        path, measurement = folder / f"{name}_{kind}.png", MEASUREMENT_OF.get(kind, "latents")
        with suppress(MissingError):
            command = evaluate_command(evidence.measurement(name, measurement).run_id[:8], measurement)
            title, how = (text.format(name=name) for text in PICTURES[kind])
            if path.exists():
                found.append(Figure(path.stem, title, f"{title}: {how}. `{command}`", path.read_bytes()))
    return found
