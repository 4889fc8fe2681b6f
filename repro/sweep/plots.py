"""Optuna's standard plots of a study, as PNG."""

import io
import logging
import warnings

import numpy as np
import optuna
from matplotlib import pyplot as plt
from matplotlib import rc_context
from optuna.visualization import matplotlib as visualization

log = logging.getLogger(__name__)

PLOTS = ("optimization_history", "param_importances", "slice", "contour", "parallel_coordinate", "edf",
         "intermediate_values")  # fmt: skip


def plots(study: optuna.Study) -> dict[str, bytes]:
    """Return the plots that the study has enough trials for, by file name."""
    plt.switch_backend("agg")
    found = {}
    for name in PLOTS:
        with warnings.catch_warnings(), rc_context():  # Optuna sets a style for the whole process
            warnings.simplefilter("ignore")
            try:
                drawn = getattr(visualization, f"plot_{name}")(study)
                out = io.BytesIO()
                np.ravel(drawn)[0].figure.savefig(
                    out, format="png", dpi=110, bbox_inches="tight"
                )  # of one or more axes
                found[f"{name}.png"] = out.getvalue()
            except (ValueError, RuntimeError) as error:  # too few trials, or all alike
                log.info("%s: %s", name, error)
        plt.close("all")
    return found
