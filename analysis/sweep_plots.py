"""Plots of a study: its history, its surface over two settings, rate against distortion, importances."""

import json
import warnings
from typing import Any

import numpy as np
import optuna
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FormatStrFormatter, LogLocator, NullLocator
from numpy.typing import NDArray
from repro.analysis.plots import INK, MARKERS, new
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from repro.figures import COLORS

optuna.logging.set_verbosity(optuna.logging.ERROR)

BOOTSTRAPS = 25
FEWEST = 6  # complete trials for a surface or for importances


def settings_of(trials: pd.DataFrame) -> pd.DataFrame:
    """Each trial's settings as columns."""
    return pd.DataFrame([json.loads(text) for text in trials["settings"]], index=trials.index)


def history(trials: pd.DataFrame) -> Figure:
    """Each trial's value, and the best so far. Raises LookupError where no trial is complete."""
    done = trials[trials["state"] == "complete"].sort_values("trial")
    if done.empty:
        raise LookupError("complete trials")
    figure, (axes,) = new(7.2, 3.0)
    axes.plot(done["trial"], done["value"], "o", color=COLORS[0], markersize=5, label="complete")
    axes.step(done["trial"], done["value"].cummin(), where="post", color=COLORS[1], label="best so far")
    low, high = float(done["value"].min()), float(done["value"].quantile(0.9))
    axes.set_ylim(low - 0.1 * (high - low + 1e-9), high + 0.3 * (high - low + 1e-9))
    for state, marker in (("pruned", "x"), ("failed", "D")):
        others = trials[trials["state"] == state]
        height = np.full(len(others), 0.97)
        if len(others):
            axes.plot(others["trial"], height, marker, color="0.5", transform=axes.get_xaxis_transform(), label=state)
    axes.set(xlabel="trial", ylabel="held-out negative ELBO (nats)")
    axes.legend(frameon=False)
    return figure


def surface(trials: pd.DataFrame, own: dict[str, Any], own_value: float) -> Figure:
    """Value over two numeric settings, both on logarithmic axes: a fitted surface, the trials, the published setting.

    Signs have the colour of what was measured there; `own_value` is of the published setting, or NaN. Raises
    LookupError where there are not two numeric settings, or too few complete trials.
    """
    done = trials[trials["state"] == "complete"]
    settings = settings_of(done)
    keys = [key for key in settings if pd.api.types.is_numeric_dtype(settings[key]) and settings[key].nunique() > 1]
    if len(keys) != 2 or len(done) < FEWEST or (settings[keys] <= 0).any().any():
        raise LookupError("two numeric settings above 0")
    x, y = "optim.lr" if "optim.lr" in keys else keys[0], "model.latent" if "model.latent" in keys else keys[1]
    value = done["value"].to_numpy(float)
    drawn = settings_of(trials[trials["state"].isin(("complete", "pruned"))])[[x, y]].astype(float)
    low, high = np.log(drawn.min().to_numpy()), np.log(drawn.max().to_numpy())
    margin = 0.04 * (high - low)
    ends = np.stack([low - margin, high + margin])
    points, values, published = settings[[x, y]].to_numpy(float), value, x in own and y in own
    if published and np.isfinite(own_value):
        points, values = np.vstack([points, [own[x], own[y]]]), np.append(value, own_value)
    mesh, fitted = _fitted(np.log(points), values, ends)
    figure, (axes,) = new(7.2, 4.2)
    levels = np.linspace(min(fitted.min(), value.min()), np.quantile(value, 0.8), 14)  # what is far off has one colour
    filled = axes.contourf(*mesh, fitted, levels=levels, cmap="viridis_r", extend="max")
    bar = figure.colorbar(filled, ax=axes, format="%.1f")
    bar.set_label("held-out negative ELBO (nats), fitted")
    colors: dict[str, Any] = {"cmap": filled.get_cmap(), "norm": filled.norm, "zorder": 3}
    axes.scatter(settings[x], settings[y], c=value, s=60, edgecolors="white", label="complete", **colors)
    pruned = settings_of(trials[trials["state"] == "pruned"])
    if len(pruned):
        axes.plot(pruned[x], pruned[y], "X", color="0.7", markeredgecolor="black", label="pruned")
    colors |= {"edgecolors": "black", "plotnonfinite": True}
    best = settings.loc[done["value"].idxmin()]
    axes.scatter(best[x], best[y], c=value.min(), marker="s", s=90, label="best trial", **colors)
    if published:
        axes.scatter(own[x], own[y], c=own_value, marker="*", s=260, label="published", **colors)
    _logarithmic(axes, drawn)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=4, frameon=False)
    return figure


def _logarithmic(axes: Axes, drawn: pd.DataFrame) -> None:
    """Both axes, marked at the values that were drawn where these are few. [N, 2], x and y."""
    x, y = drawn
    axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log")
    for axis, key in ((axes.xaxis, x), (axes.yaxis, y)):
        values = drawn[key].unique()
        axis.set_major_locator(FixedLocator(values) if len(values) < 8 else LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FormatStrFormatter("%g"))
    axes.minorticks_off()
    axes.grid(visible=False)


def _fitted(
    points: NDArray[np.float64], value: NDArray[np.float64], ends: NDArray[np.float64]
) -> tuple[list[NDArray[Any]], NDArray[Any]]:
    """A Gaussian process over the logarithms of two settings [N, 2]: a mesh between `ends` [2, 2], the mean on it."""
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


def slices(trials: pd.DataFrame) -> Figure:
    """Value against each setting by itself, later trials darker. Raises LookupError without complete trials."""
    done, settings = _varied(trials)
    shown = done["value"] <= done["value"].quantile(0.9)  # what is far off would flatten the rest
    figure, axes = new(7.2, 3.2, len(settings.columns))
    for each, key in zip(axes, settings, strict=True):
        numeric = pd.api.types.is_numeric_dtype(settings[key])
        x = settings[key] if numeric else settings[key].astype(str)
        points = each.scatter(
            x[shown],
            done["value"][shown],
            c=done["trial"][shown],
            cmap="viridis_r",
            s=36,
            edgecolors=INK,
            linewidths=0.4,
        )
        each.set_xlabel(key)
        if numeric and (settings[key] > 0).all():
            each.set_xscale("log")
            values = settings[key].unique()
            each.xaxis.set_major_locator(FixedLocator(values) if len(values) < 8 else LogLocator(subs=(1, 3)))
            each.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            each.xaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("held-out negative ELBO (nats)")
    figure.colorbar(points, ax=axes[-1], format="%.0f").set_label("trial")
    return figure


def parallel(trials: pd.DataFrame) -> Figure:
    """Each complete trial as a line through its settings to its value. Raises LookupError without complete trials."""
    done, settings = _varied(trials)
    table = settings.assign(value=done["value"])
    heights = pd.DataFrame({key: _height(table[key]) for key in table})
    figure, (axes,) = new(7.2, 3.6)
    colors = sns.color_palette("plasma", as_cmap=True)
    far = table["value"].rank(pct=True)
    for index in far.sort_values(ascending=False).index:  # the best on top
        axes.plot(
            range(len(table.columns)),
            heights.loc[index],
            color=colors(0.8 - 0.6 * far[index]),
            linewidth=1.6,
            alpha=0.8,
        )
    for place, key in enumerate(table):
        axes.axvline(place, color=INK, linewidth=0.8)
        marked = table[key].drop_duplicates() if table[key].nunique() < 8 else table[key].sort_values().iloc[[0, -1]]
        for index, value in marked.items():
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            side = {"xytext": (4, 2)} if place else {"xytext": (-4, -3), "ha": "right"}
            axes.annotate(text, (place, heights.loc[index, key]), textcoords="offset points", fontsize=8, **side)
    axes.set_xticks(range(len(table.columns)), [*settings.columns, "held-out negative ELBO (nats)"])
    axes.set_xlim(-0.1, len(table.columns) - 0.6)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def distribution(trials: pd.DataFrame, own_value: float) -> Figure:
    """Share of the complete trials that are at most so high, beside the published setting, whose value may be NaN.

    Raises LookupError without complete trials.
    """
    done, _ = _varied(trials)
    figure, (axes,) = new(7.2, 2.8)
    sns.ecdfplot(x=done["value"], ax=axes, color=COLORS[0], label=f"{len(done)} complete trials")
    if np.isfinite(own_value):
        axes.axvline(own_value, color=COLORS[1], linestyle="--", label="published setting")
    axes.set(xlabel="held-out negative ELBO (nats)", ylabel="share of the trials")
    axes.legend(frameon=False, loc="lower right")
    return figure


def _varied(trials: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The complete trials, and those of their settings that vary. Raises LookupError where there are none."""
    done = trials[trials["state"] == "complete"]
    settings = settings_of(done)
    varied = settings[[key for key in settings if settings[key].nunique() > 1]]
    if varied.empty:
        raise LookupError("complete trials with settings that vary")
    return done, varied


def _height(column: "pd.Series[Any]") -> "pd.Series[float]":
    """Where each value stands between the lowest and the highest, from 0 to 1, on a logarithmic scale above 0."""
    if not pd.api.types.is_numeric_dtype(column):
        column = column.astype("category").cat.codes
    elif (column > 0).all():
        column = np.log(column.astype(float))
    return (column - column.min()) / ((column.max() - column.min()) or 1)


def rate_distortion(trials: pd.DataFrame, key: str = "model.latent") -> Figure:
    """Rate (KL) against distortion (reconstruction) of complete trials, by latent size. Raises LookupError without."""
    done = trials[trials["state"] == "complete"]
    settings = settings_of(done)
    if key not in settings or len(done) < 2:
        raise LookupError(key)
    figure, (axes,) = new(7.2, 3.8)
    best = done["value"] == done.groupby(settings[key])["value"].transform("min")  # of each size, however high
    near = best | (done["value"] <= done["value"].quantile(0.9))
    for number, (size, part) in enumerate(done[near].groupby(settings[key][near])):
        color = sns.color_palette("viridis", settings[key].nunique())[number]
        axes.plot(
            part["reconstruction"], part["kl"], MARKERS[number % len(MARKERS)], color=color, markeredgecolor=INK,
            markeredgewidth=0.5, label=f"{key.rsplit('.', maxsplit=1)[-1]} {size:g}",
        )  # fmt: skip
    x, y = np.meshgrid(np.linspace(*axes.get_xlim()), np.linspace(*axes.get_ylim()))
    sums = axes.contour(x, y, x + y, levels=6, colors="0.5", linewidths=0.8, linestyles="dotted")
    axes.clabel(sums, fontsize=8)
    axes.set(xlabel="distortion: -log p(x|z) (nats per image)", ylabel="rate: KL (nats per image)")
    axes.legend(frameon=False)
    return figure


def importances(trials: pd.DataFrame) -> pd.DataFrame:
    """Share of the variance of the value that each setting explains (fANOVA), in bootstraps over the complete trials.

    One column a setting, one row a bootstrap. Raises LookupError where there are too few trials or settings.
    """
    done = trials[trials["state"] == "complete"]
    settings = settings_of(done)
    varied = [key for key in settings if settings[key].nunique() > 1]
    if len(done) < FEWEST or len(varied) < 2:
        raise LookupError("two settings that vary")
    kinds = {key: _distribution(settings[key]) for key in varied}
    generator, rows = np.random.default_rng(0), []
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    for _ in range(BOOTSTRAPS):
        study = optuna.create_study(direction="minimize")
        for place in generator.integers(len(done), size=len(done)):
            params = {key: settings[key].iloc[place].item() for key in varied}
            value = float(done["value"].iloc[place])
            study.add_trial(optuna.create_trial(params=params, distributions=kinds, value=value))
        try:
            rows.append(optuna.importance.get_param_importances(study, evaluator=evaluator))
        except (ValueError, RuntimeError):  # a draw without any variation
            continue
    return pd.DataFrame(rows)[varied]


def importance(table: pd.DataFrame) -> Figure:
    """The median of the importances, with the range of nine in ten bootstraps."""
    order = table.median().sort_values().index
    figure, (axes,) = new(7.2, 1.2 + 0.4 * len(order))
    middle = table[order].median()
    ends = np.abs(table[order].quantile([0.05, 0.95]).to_numpy() - middle.to_numpy())
    axes.errorbar(middle, range(len(order)), xerr=ends, fmt="o", color=COLORS[0], capsize=4)
    axes.set_yticks(range(len(order)), order)
    axes.set(xlabel="share of the variance explained (bars: 90% of the bootstraps)", xlim=(-0.02, 1.02))
    axes.set_ylim(-0.6, len(order) - 0.4)
    return figure


def _distribution(values: "pd.Series[Any]") -> optuna.distributions.BaseDistribution:
    if pd.api.types.is_float_dtype(values):
        low, high = float(values.min()), float(values.max())
        return optuna.distributions.FloatDistribution(low, high, log=low > 0 and high > 10 * low)
    return optuna.distributions.CategoricalDistribution(tuple(sorted(each.item() for each in values.unique())))
