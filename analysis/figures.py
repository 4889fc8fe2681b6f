"""The report's figures, drawn from the evidence and from the sheets of images that studies made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib import figure as mpl
from matplotlib import rc_context
from repro.analysis import plots
from repro.analysis.claims import Evidence
from repro.analysis.claims.claim import MissingError
from repro.analysis.page import Figure, Prose, Table

ACTIVE = 0.01  # variance of a latent mean over images, above which a dimension is active (Burda et al. 2016)
PICTURES = {
    "samples": ("A hundred samples of {name}", "means of p(x|z) of a hundred z ~ N(0, I), as the text draws them"),
    "originals_and_reconstructions": (
        "Test images and reconstructions of {name}",
        "rows of test images, each above its reconstructions",
    ),
    "walk": (
        "Walks in the latent space of {name}",
        "each row goes straight from one test image's latent mean to another's",
    ),
    "traversals": (
        "Traversals of the latent dimensions of {name}",
        "each row moves one dimension from -3 to 3, the most active first",
    ),
    "samples_most_confident": (
        "Samples of {name} that a classifier is surest of",
        "the fifty samples of highest confidence",
    ),
    "samples_least_confident": (
        "Samples of {name} that a classifier is least sure of",
        "the fifty samples of lowest confidence",
    ),
}
"""Sheets of images that studies make: what they show, and how."""
STUDY_OF = {"samples_most_confident": "digits", "samples_least_confident": "digits"}  # the others are of `latents`
_PLOTS: dict[str, tuple[str, Callable[[pd.DataFrame], mpl.Figure], str]] = {
    "evaluation": (
        "kl_by_dimension",
        partial(plots.kl_by_dimension, threshold=ACTIVE),
        f"KL of each latent dimension, active if its mean has a variance over images above {ACTIVE:g}",
    ),
    "latents": ("latent_map", plots.latent_map, "Latent means of test images in two dimensions, by class"),
    "gradients": (
        "gradient_variance",
        partial(
            plots.by_group, quantity="gradient_variance", xlabel="epoch", ylabel="total variance ((nats per image)²)"
        ),
        "Variance of the encoder's gradient by estimator along the training, one draw of z for each image",
    ),
    "digits": ("confidence", plots.confidence, "Confidence of a classifier of handwritten digits"),
    "spectrum": ("spectrum", plots.spectrum, "Spectral energy by frequency, of data, reconstructions and samples"),
}
"""By study: the plot's name, how it is drawn, and what it shows."""

Part = Prose | Table | Figure


@dataclass(frozen=True)
class Files:
    """Where a report lies: tables and the HTML page in `folder`, RESULTS.md beside it."""

    folder: Path

    @property
    def page(self) -> Path:
        """The HTML file."""
        return self.folder / "report.html"

    @property
    def markdown(self) -> Path:
        """The Markdown file."""
        return self.folder.parent / "RESULTS.md"

    @property
    def figures(self) -> Path:
        """Where the Markdown file's pictures are: the plots, and the sheets of images that studies made."""
        return self.folder / "figures"


def of_studies(evidence: Evidence, name: str) -> list[Part]:
    """The plots of one setup's studies, those that there are."""
    found: list[Part] = []
    for study, (kind, draw, what) in _PLOTS.items():
        try:
            measured = evidence.measured(name, study)
        except MissingError:
            continue
        run_id = measured.run_id
        how = f"{what}: {name}, run {run_id[:8]}, `python -m repro evaluate {run_id[:8]} --study {study}`."
        try:
            found.append(
                drawn(f"{kind}_{name}", partial(draw, measured.rows), f"{what} of {name}", how, runs=(run_id,))
            )
        except (LookupError, ValueError, TypeError):  # rows of another version of the study
            found.append(Prose(f"study {study} cannot be drawn; `python -m repro evaluate {run_id} --study {study}`."))
    return found


def sheets(evidence: Evidence, files: Files, name: str, kinds: tuple[str, ...]) -> list[Part]:
    """The sheets of images of one experiment, those that there are. Their runs have them already."""
    found: list[Part] = []
    for kind in kinds:
        path, study = files.figures / f"{name}_{kind}.png", STUDY_OF.get(kind, "latents")
        try:
            run_id = evidence.measured(name, study).run_id[:8]
        except MissingError:
            continue
        if path.exists():
            title, how = PICTURES[kind]
            caption = f"{title.format(name=name)}: {how}. `python -m repro evaluate {run_id} --study {study}`"
            found.append(Figure(f"{name}_{kind}", title.format(name=name), caption, path.read_bytes()))
    return found


def drawn(name: str, draw: Callable[[], mpl.Figure], alt: str, caption: str, runs: Sequence[str] = ()) -> Figure:
    """A plot as SVG and as PNG, drawn for each anew: saving changes a figure. `runs`: what it shows, by run id."""
    with rc_context(plots.STYLE):
        return Figure(name, alt, caption, plots.png(draw()), plots.svg(draw(), name, alt), tuple(runs))
