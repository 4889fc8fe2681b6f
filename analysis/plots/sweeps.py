"""Plots of a study: Optuna's own, a fitted surface with the published setting, and rate against distortion."""

import json
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FormatStrFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.visualization import matplotlib as library
from repro.analysis.plots.runs import INK, WIDTH, new
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from repro.images import COLORS

VALUE = "held-out negative ELBO (nats)"
FEWEST = 6
"""Complete trials that a surface or importances need."""
RAN = ("complete", "pruned")
"""States of the trials that a plot shows."""


def study_of(trials: pd.DataFrame) -> optuna.Study:
    """Return the complete and pruned trials of a table as an in-memory study, with ranges that cover their settings."""
    shown = trials[trials["state"].isin(RAN)].sort_values("trial")
    settings = settings_of(shown)
    kinds = {key: _distribution(settings[key]) for key in settings}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name="trials", direction="minimize")
    optuna.logging.set_verbosity(verbosity)
    for row, params in zip(shown.to_dict("records"), settings.astype(object).to_dict("records"), strict=True):
        state = optuna.trial.TrialState[row["state"].upper()]
        value = row["value"] if row["state"] == "complete" else None
        study.add_trial(optuna.trial.create_trial(state=state, value=value, params=params, distributions=kinds))
    return study


def settings_of(trials: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame([json.loads(text) for text in trials["settings"]], index=trials.index)


def _distribution(values: "pd.Series[Any]") -> BaseDistribution:
    if not pd.api.types.is_float_dtype(values):
        choices = values.astype(object).unique()
        return CategoricalDistribution(sorted(choices, key=lambda value: (isinstance(value, str), value)))
    low, high = float(values.min()), float(values.max())
    return FloatDistribution(low, high, log=low > 0 and high > 10 * low)


def history(trials: pd.DataFrame) -> Figure:
    """Draw each trial's value and the best value so far. Raises LookupError where no trial is complete."""
    done = _complete(trials)["value"]
    figure = _drawn(library.plot_optimization_history, trials)
    figure.axes[0].legend(frameon=False, loc="upper right")  # inside: Optuna's is as wide as the plot
    low, high = float(done.min()), float(done.quantile(0.9))
    figure.axes[0].set_ylim(low - 0.1 * (high - low + 1e-9), high + 0.3 * (high - low + 1e-9))
    return figure


def lowest(draw: Callable[..., Any], trials: pd.DataFrame, **options: Any) -> Figure:
    """Draw nine tenths of the complete trials by a function of Optuna. The highest would flatten the others.

    Raises LookupError without complete trials that vary.
    """
    done = _complete(trials, varied=1)
    return _drawn(draw, done[done["value"] <= done["value"].quantile(0.9)], **options)


def slices(trials: pd.DataFrame) -> list[Figure]:
    """Draw value against each setting by itself, a panel for each setting. Raises as `lowest`."""
    varied = settings_of(_complete(trials, varied=1)).nunique() > 1
    return [lowest(library.plot_slice, trials, params=[key]) for key in varied.index[varied]]


def distribution(trials: pd.DataFrame, own_value: float) -> Figure:
    """Draw the share of complete trials up to each value, and the published setting's value, which may be NaN.

    Raises LookupError without complete trials that vary.
    """
    figure = _drawn(library.plot_edf, _complete(trials, varied=1))
    if np.isfinite(own_value):
        figure.axes[0].axvline(own_value, color=COLORS[1], linestyle="--", label="published setting")
        figure.axes[0].legend(frameon=False, loc="lower right")
    return figure


def importance(trials: pd.DataFrame) -> Figure:
    """Draw the share of the value's variance that each setting explains (fANOVA).

    Raises LookupError where there are too few complete trials or settings that vary.
    """
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return _drawn(library.plot_param_importances, _complete(trials, FEWEST, varied=2), evaluator=evaluator)


def _drawn(draw: Callable[..., Any], trials: pd.DataFrame, **options: Any) -> Figure:
    """Return a figure by Optuna without its title and background, with text in the page's colour."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        draw(study_of(trials), target_name=VALUE, **options)
    figure = plt.gcf()
    plt.close(figure)
    figure.suptitle("")
    figure.set_size_inches(WIDTH, 3.6)
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.set_title("", loc="left")
        axes.set_title("", loc="center")
        axes.tick_params(which="both", colors=INK)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(NullFormatter())
        axes.spines[["left", "bottom"]].set_color(INK)
    for text in figure.findobj(Text):
        text.set_color(INK)
    return figure


def _complete(trials: pd.DataFrame, count: int = 1, varied: int = 0) -> pd.DataFrame:
    """Return the complete trials. Raises LookupError for fewer than `count`, or than `varied` settings that vary."""
    done = trials[trials["state"] == "complete"]
    if len(done) < count or (settings_of(done).nunique() > 1).sum() < varied:
        raise LookupError(f"{count} complete trials, {varied} settings that vary")
    return done


def surface(trials: pd.DataFrame, own: dict[str, Any], own_value: float) -> Figure:
    """Draw value over two numeric settings: a fitted surface, the trials and the published setting `own`.

    Both axes are logarithmic. The colour of a sign is the value measured there; `own_value` is the value of the
    published setting, or NaN. Raises LookupError where there are not two numeric settings, or too few complete trials.
    """
    settings = settings_of(_complete(trials, FEWEST))
    keys = [key for key in settings if pd.api.types.is_numeric_dtype(settings[key]) and settings[key].nunique() > 1]
    if len(keys) != 2 or (settings[keys] <= 0).any().any():
        raise LookupError("two numeric settings above 0")
    x, y = "optim.lr" if "optim.lr" in keys else keys[0], "model.latent" if "model.latent" in keys else keys[1]
    shown = trials[trials["state"].isin(RAN)]
    drawn = settings_of(shown)[[x, y]].astype(float)
    low, high = (np.log(drawn.agg(end).to_numpy()) for end in ("min", "max"))
    margin = 0.04 * (high - low)
    points = drawn.assign(value=shown["value"]).to_numpy(float)  # [N, 3], as all points below
    done, pruned = (points[shown["state"] == state] for state in RAN)
    published = np.array([[own[x], own[y], own_value]] if x in own and y in own else np.empty((0, 3)))
    known = np.concatenate([done, published[np.isfinite(published[:, 2])]])
    mesh, fitted = _fitted(np.log(known[:, :2]), known[:, 2], np.stack([low - margin, high + margin]))
    figure, axes = new(4.2)
    lowest, highest = min(fitted.min(), done[:, 2].min()), np.quantile(done[:, 2], 0.8)  # all above have one colour
    levels = np.linspace(lowest, highest, 14)
    filled = axes.contourf(*mesh, fitted, levels=levels, cmap="viridis_r", extend="max")
    figure.colorbar(filled, ax=axes, format="%.1f", label="held-out negative ELBO (nats), fitted")
    if len(pruned):
        axes.plot(pruned[:, 0], pruned[:, 1], "X", color="0.7", markeredgecolor="black", label="pruned")
    colors: dict[str, Any] = {"cmap": filled.get_cmap(), "norm": filled.norm, "plotnonfinite": True, "zorder": 3}
    for label, found, marker, size, edge in (
        ("complete", done, "o", 60, "white"),
        ("best trial", done[[done[:, 2].argmin()]], "s", 90, "black"),
        ("published", published, "*", 260, "black"),
    ):
        if len(found):
            axes.scatter(
                found[:, 0], found[:, 1], size, found[:, 2], marker=marker, edgecolors=edge, label=label, **colors
            )
    axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log")
    for axis, key in ((axes.xaxis, x), (axes.yaxis, y)):  # ticks at the values of trials where these are few
        ticks = drawn[key].unique()
        axis.set_major_locator(FixedLocator(ticks) if len(ticks) < 8 else LogLocator(subs=(1, 3)))
        axis.set_major_formatter(FormatStrFormatter("%g"))
    axes.minorticks_off()
    axes.grid(visible=False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, columnspacing=1.0, handletextpad=0.2)
    return figure


def _fitted(
    points: NDArray[np.float64], value: NDArray[np.float64], ends: NDArray[np.float64]
) -> tuple[list[NDArray[Any]], NDArray[Any]]:
    """Fit a Gaussian process to the logarithms of two settings [N, 2]; return a mesh of settings and its mean there.

    `ends` [2, 2] has the lowest and the highest logarithms of the mesh.
    """
    low, high = ends
    kernel = ConstantKernel(1.0) * Matern([0.5, 0.5], (0.1, 10), nu=2.5) + WhiteKernel(0.01, (1e-5, 1.0))
    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0, n_restarts_optimizer=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((points - low) / (high - low), value)
    steps = np.linspace(0, 1, 60)
    unit = np.stack([each.ravel() for each in np.meshgrid(steps, steps)], axis=1)
    mesh = [axis.reshape(60, 60) for axis in np.exp(low + unit * (high - low)).T]
    return mesh, np.asarray(model.predict(unit)).reshape(60, 60)


def rate_distortion(trials: pd.DataFrame, key: str = "model.latent") -> Figure:
    """Draw rate (KL) against distortion (reconstruction) of trials by latent size.

    Raises LookupError without two complete trials, or without the setting `key`.
    """
    done = _complete(trials, 2)
    settings = settings_of(done)
    if key not in settings:
        raise LookupError(key)
    figure, axes = new(3.8)
    best = done["value"] == done.groupby(settings[key])["value"].transform("min")  # of each size, however high
    near = best | (done["value"] <= done["value"].quantile(0.9))
    name = key.rsplit(".", maxsplit=1)[-1]
    shown = done.assign(**{name: pd.Categorical(settings[key])})[near]
    look: dict[str, Any] = {"hue": name, "style": name, "palette": "viridis", "edgecolor": INK, "s": 40}
    sns.scatterplot(shown, x="reconstruction", y="kl", ax=axes, **look)
    x, y = np.meshgrid(np.linspace(*axes.get_xlim()), np.linspace(*axes.get_ylim()))
    sums = axes.contour(x, y, x + y, levels=6, colors="0.5", linewidths=0.8, linestyles="dotted")
    axes.clabel(sums, fontsize=8)
    axes.set(xlabel="distortion: -log p(x|z) (nats per image)", ylabel="rate: KL (nats per image)")
    axes.legend(title=name, frameon=False)
    return figure
