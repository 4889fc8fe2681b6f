"""Plots of runs and of measurements on their models. Lines differ by marker, style or label too, not by colour only."""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FormatStrFormatter
from PIL import Image
from repro.analysis.curves import by_seed

from repro import names
from repro.images import COLORS, Curve
from repro.text import plural

INK = "#123456"
"""Stands for the text colour of the page, which may be light or dark; `report.mplstyle` has it too."""
FIRST = 25
"""Epochs of a curve that have a panel of their own."""
COST = "training cost (nats per image)"
WIDTH = 5.0
"""Width of a panel in inches: text of 10 points is read on a telephone, where the panel has 360 pixels."""


def new(height: float) -> tuple[Figure, Axes]:
    """Return a figure of one panel, of a height in inches, and its axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def svg(figure: Figure, name: str, alt: str) -> str:
    """Return a figure as SVG for a page: text as text, in the page's colours, with ids that no other figure has."""
    out = io.StringIO()
    for legend in figure.findobj(Legend):  # Optuna's style gives it a background
        legend.get_frame().set_facecolor("none")
    with mpl.rc_context({"svg.hashsalt": name}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", bbox_inches="tight", metadata=nothing, facecolor="none")
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    for number, color in enumerate(COLORS):  # the page has lighter ones for the dark
        text = text.replace(color.lower(), f"var(--plot-{number}, {color})")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\1{name}-", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


def png(panels: list[Figure]) -> bytes:
    """Return panels side by side as PNG."""
    made = []
    for figure in panels:
        out = io.BytesIO()
        figure.savefig(out, format="png", bbox_inches="tight", dpi=110, facecolor="white", metadata={"Software": None})
        made.append(Image.open(out).convert("RGB"))
    if len(made) == 1:
        return out.getvalue()
    sheet = Image.new("RGB", (sum(each.width for each in made), max(each.height for each in made)), "white")
    for index, each in enumerate(made):  # their horizontal axes are in line
        sheet.paste(each, (sum(other.width for other in made[:index]), sheet.height - each.height))
    out = io.BytesIO()
    sheet.save(out, format="png", optimize=True)
    return out.getvalue()


def verdicts(table: pd.DataFrame) -> Figure:
    """Draw each result's difference from the reported cost in margins, and the zone of equivalence.

    `table` has a row for each verdict, with the fields of `Verdict` as columns.
    """
    figure, axes = new(1.6 + 0.62 * max(len(table), 1))
    axes.axvspan(-1, 1, facecolor=COLORS[2], alpha=0.3, linewidth=0, label="within the margin")
    for end in (-1, 1):
        axes.axvline(end, color=COLORS[2], linewidth=1.2, linestyle="--")
    axes.axvline(0, color=INK, linewidth=0.8)
    costs = table[["pi_low", "pi_high", "ci_low", "ci_high", "difference"]].astype(float)  # None becomes NaN
    costs[["pi_low", "pi_high"]] = costs[["pi_low", "pi_high"]].sub(table["reported"], axis=0)
    ends, rows = costs.div(table["margin"], axis=0), range(len(table))
    axes.hlines(rows, ends["pi_low"], ends["pi_high"], color=COLORS[0], linewidth=1.2, label="95%, one more run")
    axes.hlines(rows, ends["ci_low"], ends["ci_high"], color=COLORS[0], linewidth=5, label="90%, mean")
    axes.plot(ends["difference"], rows, "o", color=COLORS[1], label="mean - reported")
    labels = [f"{row.experiment}\nepoch {row.epoch}, {plural(row.n, 'seed')}" for row in table.itertuples()]
    axes.set_yticks(range(len(table)), labels)
    axes.set(xlabel="difference from the reported cost, in margins", ylim=(len(table) - 0.5, -0.5))
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def cost_curves(curves: pd.DataFrame, published: Curve | None) -> list[Figure]:
    """Draw each seed's cost, the mean, the range and the published curve; the first epochs have their own panel."""
    seeds = by_seed(curves)
    mean, last = seeds.mean(axis=1), int(seeds.index.max())
    panels = [new(3.6) for _ in range(2 if last > FIRST else 1)]
    for (_, axes), end in zip(panels, (last, FIRST), strict=False):
        _seeds(axes, seeds, published)
        axes.set(xlabel="epoch", ylabel=COST, xlim=(0.5, end + 0.5))
    panels[0][1].legend(frameon=False)
    if len(panels) > 1:  # the first epochs are far above the others
        early = mean.iloc[1:FIRST]
        panels[0][1].set(ylim=_settled(mean))
        panels[1][1].set(ylim=(float(early.min()) * 0.99, float(early.max()) * 1.02), title=f"the first {FIRST} epochs")
    return [figure for figure, _ in panels]


def _seeds(axes: Axes, seeds: pd.DataFrame, published: Curve | None) -> None:
    """Draw costs, epochs by seeds, with their mean and range, and the published curve with its reading error."""
    if published is not None:
        x, cost, error = published.epoch, published.cost, published.reading_error
        band: dict[str, Any] = {"color": "0.6", "alpha": 0.5, "linewidth": 0, "label": "published, reading error"}
        axes.fill_between(x, cost - error, cost + error, **band)
        axes.plot(x, cost, color=INK, linewidth=1.4, linestyle="--", label="published")
    axes.fill_between(seeds.index, seeds.min(axis=1), seeds.max(axis=1), color=COLORS[0], alpha=0.25, linewidth=0)
    axes.plot(seeds.index, seeds, color=COLORS[0], linewidth=0.6, alpha=0.7)
    label = f"mean of {plural(seeds.shape[1], 'seed')}"
    axes.plot(seeds.index, seeds.mean(axis=1), color=COLORS[0], linewidth=1.8, label=label)


def _settled(mean: "pd.Series[float]") -> tuple[float, float]:
    """Return limits of the axis for a mean curve whose first epochs are far above the others."""
    settled = mean.iloc[9:]
    low, high = float(settled.min()), float(settled.quantile(0.95))
    return low - 0.08 * (high - low), high + 0.1 * (high - low)


def readme(curves: pd.DataFrame, published: Curve | None, samples: bytes | None) -> Figure:
    """Draw the curves of a result and, beside them, a strip of its sheet of samples, for a page 800 pixels wide."""
    seeds = by_seed(curves)
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    axes, *beside = figure.subplots(1, 2 if samples else 1, width_ratios=(2.6, 1) if samples else None, squeeze=False)[
        0
    ]
    _seeds(axes, seeds, published)
    axes.set(xlabel="epoch", ylabel=COST, xlim=(0.5, float(seeds.index.max()) + 0.5), ylim=_settled(seeds.mean(axis=1)))
    axes.legend(frameon=False)
    for strip in beside:
        sheet = np.asarray(Image.open(io.BytesIO(samples or b"")))
        height, width = sheet.shape[:2]
        strip.imshow(sheet[: height * 7 // 10, : width // 2], cmap="gray", interpolation="nearest")
        strip.set_title("samples of the trained model")
        strip.axis("off")
    return figure


def kl_by_dimension(measured: pd.DataFrame) -> Figure:
    """Draw the KL of each latent dimension, highest first, grey if the dimension is not active.

    Needs rows of the quantities kl_of_dimension and variance_of_mean.
    """
    kl = _rows(measured, "kl_of_dimension").set_index("x")["value"].sort_values(ascending=False)
    variance = _rows(measured, "variance_of_mean").set_index("x")["value"].reindex(kl.index)
    active = variance > names.ACTIVE_VARIANCE
    figure, axes = new(2.8)
    axes.bar(range(len(kl)), kl, color=[COLORS[0] if each else "0.6" for each in active])
    label = f"latent dimension, highest KL first ({active.sum()} of {len(kl)} active)"
    axes.set(xlabel=label, ylabel="KL (nats per image)", xticks=[])
    return figure


def by_group(measured: pd.DataFrame, quantity: str, xlabel: str, ylabel: str) -> Figure:
    """Draw a quantity, on a logarithmic axis, against its x, a line for each group."""
    figure, axes = new(3.6)
    rows = _rows(measured, quantity)
    look: dict[str, Any] = {"hue": "group", "style": "group", "palette": COLORS[: rows["group"].nunique()]}
    sns.lineplot(rows, x="x", y="value", markers=True, dashes=False, errorbar=None, ax=axes, **look)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log")
    axes.legend(frameon=False)
    return figure


def gradient_variance(measured: pd.DataFrame) -> Figure:
    return by_group(measured, "gradient_variance", "epoch", "total variance ((nats per image)²)")


def spectrum(measured: pd.DataFrame) -> Figure:
    labels = ("frequency (share of the Nyquist frequency)", "share of energy per frequency")
    figure = by_group(measured, "spectrum", *labels)
    axes = figure.axes[0]
    axes.axvspan(0.5, 1.0, color="0.6", alpha=0.2, linewidth=0)
    axes.text(0.99, 0.97, "above half Nyquist", transform=axes.transAxes, ha="right", va="top")
    axes.legend(loc="lower left", frameon=False)
    return figure


def confidence(measured: pd.DataFrame) -> Figure:
    rows = _rows(measured, "mean_confidence")
    figure, axes = new(2.6)
    errors = 2 * rows["standard_error"].fillna(0)
    axes.errorbar(rows["value"], range(len(rows)), xerr=errors, fmt="o", color=COLORS[0], capsize=3)
    axes.set_yticks(range(len(rows)), rows["group"])
    axes.set_xlabel("mean confidence (bars: two standard errors)")
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, 1.02))
    return figure


def latent_map(measured: pd.DataFrame, classes: Sequence[str] = ()) -> list[Figure]:
    """Draw latent means in two dimensions by PCA and t-SNE, coloured by class, with its name at the median.

    `classes` has the names of the classes 0, 1, ...; without them the numbers are shown.
    """
    rows = measured[measured["quantity"].str.startswith("latent_")].rename(columns={"group": "class"})
    points = rows.pivot(index=["class", "x"], columns="quantity", values="value").reset_index()
    points["class"] = points["class"].replace({str(number): name for number, name in enumerate(classes)})
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "black", "alpha": 0.8}
    style: dict[str, Any] = {"weight": "bold", "ha": "center", "va": "center", "color": "#111111"}
    dots: dict[str, Any] = {"hue": "class", "palette": "colorblind", "s": 9, "linewidth": 0, "legend": False}
    panels = []
    for name, title in (("pca", "PCA"), ("tsne", "t-SNE")):
        figure, axes = new(4.4)
        x, y = f"latent_{name}_1", f"latent_{name}_2"
        sns.scatterplot(points, x=x, y=y, ax=axes, rasterized=True, **dots)
        for label, middle in points.groupby("class")[[x, y]].median().iterrows():
            axes.text(middle[x], middle[y], str(label), bbox=box, fontsize=9 if classes else 15, **style)
        axes.set(xlabel=f"{title}, first dimension", ylabel=f"{title}, second dimension")
        panels.append(figure)
    return panels


def variants(table: pd.DataFrame) -> Figure:
    """Draw each variant's cost less its experiment's at the same epoch."""
    rows = table[table["difference"].notna()].reset_index(drop=True)
    rows = rows.astype({"low": float, "high": float}).fillna({"low": rows["difference"], "high": rows["difference"]})
    figure, axes = new(1.2 + 0.45 * max(len(rows), 1))
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.hlines(rows.index, rows["low"], rows["high"], color=COLORS[0], linewidth=2.5)
    axes.plot(rows["difference"], rows.index, "o", color=COLORS[1])
    for index, difference in rows["difference"].items():
        offset: dict[str, Any] = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
        axes.annotate(f"{difference:+.2f}", (difference, index), **offset)
    axes.set_yticks(rows.index, rows["variant"])
    axes.set(xlabel="cost less its experiment's (nats per image)", ylim=(len(rows) - 0.5, -0.8))
    if rows["difference"].abs().max() > 20:
        axes.set_xlabel(f"{axes.get_xlabel()}\nlinear from -1 to 1, logarithmic beyond")
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xlim(2 * min(0.0, rows["low"].min()) - 1, 2 * max(0.0, rows["high"].max()) + 1)
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    return figure


def several(curves: dict[str, "pd.Series[float]"], first: int = 3) -> Figure:
    """Draw cost against epoch of at least one experiment, from epoch `first` on."""
    table = pd.DataFrame(curves)
    lowest = table.ffill().iloc[-1].min()
    figure, axes = new(3.6)
    shown, palette = table[table.index >= first], COLORS[: len(curves)]
    sns.lineplot(shown, palette=palette, errorbar=None, linewidth=1.8, ax=axes)
    axes.set(xlabel="epoch", ylabel=COST, ylim=(lowest - 2, lowest + 40))
    axes.legend(frameon=False)
    return figure


def _rows(measured: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Return the rows of a quantity. Raises LookupError if there are none."""
    found = measured[measured["quantity"] == quantity]
    if found.empty:
        raise LookupError(quantity)
    return found
