"""Optuna's own figures of a study, as PNG."""

import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from matplotlib import pyplot as plt
from optuna.visualization import matplotlib as drawings

log = logging.getLogger(__name__)

FIGURES: dict[str, Callable[[optuna.Study], Any]] = {
    "history": drawings.plot_optimization_history,
    "importances": drawings.plot_param_importances,
    "slice": drawings.plot_slice,
    "contour": drawings.plot_contour,
    "parallel_coordinates": drawings.plot_parallel_coordinate,
    "edf": drawings.plot_edf,
    "intermediate_values": drawings.plot_intermediate_values,
}


def figures(study: optuna.Study) -> dict[str, bytes]:
    """Each figure that the study has enough trials for, by file name."""
    plt.switch_backend("agg")
    found = {}
    for name, draw in FIGURES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found[f"{name}.png"] = _png(draw(study))
            except (ValueError, RuntimeError) as error:  # too few trials, or all alike
                log.info("%s: %s", name, error)
    return found


def _png(drawn: Any) -> bytes:
    """What Optuna has drawn: axes, or an array of them."""
    axes = drawn.ravel()[0] if hasattr(drawn, "ravel") else drawn
    out = io.BytesIO()
    axes.figure.savefig(out, format="png", dpi=110, bbox_inches="tight")
    plt.close(axes.figure)
    return out.getvalue()
