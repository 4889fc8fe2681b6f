"""The report's figures of models: plots of measurements, and the sheets of images that measurements made."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib import figure as mpl
from matplotlib import rc_context
from repro.analysis.claims import Evidence
from repro.analysis.claims.evidence import MissingError
from repro.analysis.plots import runs as plots
from repro.analysis.report.document import Figure, Part, Prose

ACTIVE_VARIANCE = 0.01
"""Variance of a latent mean over images above which a dimension is active (Burda et al. 2016)."""
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
    "samples_most_confident": (
        "Samples of {name} with the highest confidence of a classifier",
        "fifty samples",
    ),
    "samples_least_confident": (
        "Samples of {name} with the lowest confidence of a classifier",
        "fifty samples",
    ),
}
"""Title and description of each sheet of images that a measurement makes."""
MEASUREMENT_OF = {"samples_most_confident": "digits", "samples_least_confident": "digits"}
"""Which measurement makes a sheet, if it is not `latents`."""
_PLOTS: dict[str, tuple[str, Callable[[pd.DataFrame], mpl.Figure], str]] = {
    "evaluation": (
        "kl_by_dimension",
        partial(plots.kl_by_dimension, threshold=ACTIVE_VARIANCE),
        f"KL of each latent dimension, active if its mean has a variance over images above {ACTIVE_VARIANCE:g}",
    ),
    "latents": ("latent_map", plots.latent_map, "Latent means of test images in two dimensions, by class"),
    "gradients": (
        "gradient_variance",
        partial(
            plots.by_group, quantity="gradient_variance", xlabel="epoch", ylabel="total variance ((nats per image)²)"
        ),
        "Variance of the encoder's gradient by estimator during training, one draw of z for each image",
    ),
    "digits": ("confidence", plots.confidence, "Confidence of a classifier of handwritten digits"),
    "spectrum": ("spectrum", plots.spectrum, "Spectral energy by frequency, of data, reconstructions and samples"),
}
"""By measurement: the plot's name, the function that draws it, and what it shows."""


def of_measurements(evidence: Evidence, name: str) -> list[Part]:
    """Return the plots of the measurements that an experiment has."""
    found: list[Part] = []
    for measurement, (kind, draw, what) in _PLOTS.items():
        try:
            measured = evidence.measurement(name, measurement)
        except MissingError:
            continue
        run_id = measured.run_id
        how = f"{what}: {name}, run {run_id[:8]}, `python -m repro evaluate {run_id[:8]} --study {measurement}`."
        try:
            found.append(
                drawn(f"{kind}_{name}", partial(draw, measured.rows), f"{what} of {name}", how, runs=(run_id,))
            )
        except (LookupError, ValueError, TypeError):  # rows by another version of the code
            command = f"`python -m repro evaluate {run_id} --study {measurement}`"
            found.append(Prose(f"measurement {measurement} cannot be drawn; {command}."))
    return found


def sheets(evidence: Evidence, folder: Path, name: str, kinds: tuple[str, ...]) -> list[Part]:
    """Return the sheets of images of an experiment that are in a folder, without logging them to their runs again."""
    found: list[Part] = []
    for kind in kinds:
        path, measurement = folder / f"{name}_{kind}.png", MEASUREMENT_OF.get(kind, "latents")
        try:
            run_id = evidence.measurement(name, measurement).run_id[:8]
        except MissingError:
            continue
        if path.exists():
            title, how = PICTURES[kind]
            caption = f"{title.format(name=name)}: {how}. `python -m repro evaluate {run_id} --study {measurement}`"
            found.append(Figure(f"{name}_{kind}", title.format(name=name), caption, path.read_bytes()))
    return found


def drawn(name: str, draw: Callable[[], mpl.Figure], alt: str, caption: str, runs: Sequence[str] = ()) -> Figure:
    """Draw a plot as PNG and, because saving changes a figure, once more as SVG. `runs` are the ids of runs in it."""
    with rc_context(plots.STYLE):
        return Figure(name, alt, caption, plots.png(draw()), plots.svg(draw(), name, alt), tuple(runs))
