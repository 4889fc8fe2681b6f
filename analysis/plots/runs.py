"""Plots of runs and of measurements on their models. Lines differ by marker, style or label too, not by colour only."""

import io
import re
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter
from repro.analysis.curves import table_of

from repro.images import COLORS, Curve

INK = "#123456"
"""Stands for the text colour of the page, which may be light or dark."""
FIRST = 25
"""Epochs of a curve that have a panel of their own."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.facecolor": "none", "figure.facecolor": "none", "font.size": 10.0,
    "svg.fonttype": "none", "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.2, "grid.color": INK, "axes.axisbelow": True,
}  # fmt: skip
"""Settings of Matplotlib while a plot is drawn and saved. Text drawn without them would be black on a dark page."""


def svg(figure: Figure, name: str, alt: str) -> str:
    """Return a figure as SVG for a page: text as text, in the page's colour, with ids that no other figure has."""
    with mpl.rc_context({"svg.hashsalt": name}):
        out = io.StringIO()
        figure.savefig(
            out,
            format="svg",
            bbox_inches="tight",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\1{name}-", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


def png(figure: Figure) -> bytes:
    """Return a figure as PNG on white."""
    out = io.BytesIO()
    figure.savefig(out, format="png", bbox_inches="tight", dpi=110, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def verdicts(table: pd.DataFrame) -> Figure:
    """Draw each result's difference from the reported cost in margins, and the zone of equivalence.

    `table` is that of `report.summary.interval_table`.
    """
    figure, (axes,) = new(7.2, 0.9 + 0.62 * max(len(table), 1))
    axes.axvspan(-1, 1, color=COLORS[2], alpha=0.15, linewidth=0, label="within the margin")
    axes.axvline(0, color=INK, linewidth=0.8)
    for row, each in enumerate(table.to_dict("records")):
        scale = each["margin"]
        for low, high, width, label in (
            ("pi_low", "pi_high", 1.2, "95%, one more run"),
            ("ci_low", "ci_high", 5, "90%, mean"),
        ):
            if pd.notna(each[low]):
                ends = [each[low] / scale, each[high] / scale]
                axes.plot(ends, [row, row], color=COLORS[0], linewidth=width, label=None if row else label)
        axes.plot(each["difference"] / scale, row, "o", color=COLORS[1], label=None if row else "mean - reported")
    axes.set_yticks(
        range(len(table)),
        [f"{row.experiment}\nepoch {row.epoch}, {row.n} seed{'s' * (row.n != 1)}" for row in table.itertuples()],
    )
    axes.set(xlabel="difference from the reported cost, in margins", ylim=(len(table) - 0.5, -0.5))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def cost_curves(curves: pd.DataFrame, published: Curve | None) -> Figure:
    """Draw each seed's cost, the mean, the range and the published curve; the first epochs have their own panel."""
    seeds = table_of(curves)
    last = int(seeds.index.max())
    spans = (last, FIRST) if last > FIRST else (last,)
    figure, panels = new(9.6 if len(spans) > 1 else 7.2, 3.8, columns=len(spans))
    for axes, end in zip(panels, spans, strict=True):
        if published is not None:
            x, cost, error = published.epoch, published.cost, published.reading_error
            axes.fill_between(
                x, cost - error, cost + error, color="0.6", alpha=0.5, linewidth=0, label="published, reading error"
            )
            axes.plot(x, cost, color=INK, linewidth=1.1, linestyle="--", label="published")
        axes.fill_between(seeds.index, seeds.min(axis=1), seeds.max(axis=1), color=COLORS[0], alpha=0.25, linewidth=0)
        for seed in seeds:
            axes.plot(seeds.index, seeds[seed], color=COLORS[0], linewidth=0.6, alpha=0.7)
        label = f"this suite, {seeds.shape[1]} seed" + "s" * (seeds.shape[1] > 1)
        axes.plot(seeds.index, seeds.mean(axis=1), color=COLORS[0], linewidth=1.8, label=label)
        axes.set(xlabel="epoch", xlim=(0.5, end + 0.5))
    mean = seeds.mean(axis=1)
    panels[0].set(ylabel="training cost (nats per image)")
    if len(spans) > 1:
        panels[0].set(ylim=_window(mean.iloc[9:], float(mean.iloc[-1])))
        early = mean.iloc[1:FIRST]
        panels[1].set(ylim=(float(early.min()) * 0.99, float(early.max()) * 1.02))
    panels[0].legend(frameon=False)
    return figure


def kl_by_dimension(measured: pd.DataFrame, threshold: float) -> Figure:
    """Draw the KL of each latent dimension, highest first, grey if the variance of its mean is at most `threshold`.

    Needs rows of the quantities kl_of_dimension and variance_of_mean.
    """
    kl = _rows(measured, "kl_of_dimension").set_index("x")["value"].sort_values(ascending=False)
    variance = measured[measured["quantity"] == "variance_of_mean"].set_index("x")["value"].reindex(kl.index)
    figure, (axes,) = new(7.2, 3.0)
    active = (variance > threshold).to_numpy()
    axes.bar(range(len(kl)), kl, color=[COLORS[0] if each else "0.6" for each in active])
    axes.set(
        xlabel=f"latent dimension, highest KL first ({active.sum()} of {len(kl)} active)",
        ylabel="KL (nats per image)",
    )
    axes.set_xticks([])
    return figure


def by_group(measured: pd.DataFrame, quantity: str, xlabel: str, ylabel: str, log: bool = True) -> Figure:
    """Draw a quantity against its x, a line for each group."""
    rows = _rows(measured, quantity)
    figure, (axes,) = new(7.2, 3.4)
    for number, (group, unordered) in enumerate(rows.groupby("group", sort=False)):
        part = unordered.sort_values("x")
        axes.plot(part["x"], part["value"], color=COLORS[number], marker=MARKERS[number], markersize=4, label=group)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    axes.legend(frameon=False)
    return figure


def spectrum(measured: pd.DataFrame) -> Figure:
    """Draw spectral energy by frequency, of data, reconstructions and samples."""
    figure = by_group(
        measured, "spectrum", "frequency (share of the Nyquist frequency)", "share of energy per frequency"
    )
    axes = figure.axes[0]
    axes.axvspan(0.5, 1.0, color="0.6", alpha=0.2, linewidth=0)
    axes.text(0.99, 0.97, "above half Nyquist", transform=axes.transAxes, ha="right", va="top")
    axes.legend(loc="lower left", frameon=False)
    return figure


def confidence(measured: pd.DataFrame) -> Figure:
    """Draw a classifier's mean confidence on each kind of image."""
    rows = _rows(measured, "mean_confidence")
    figure, (axes,) = new(7.2, 2.6)
    places = range(len(rows))
    axes.errorbar(rows["value"], places, xerr=2 * rows["standard_error"].fillna(0), fmt="o", color=COLORS[0], capsize=3)
    axes.set_yticks(places, rows["group"])
    axes.set(
        xlabel="mean confidence of the classifier (bars: two standard errors)",
        ylim=(len(rows) - 0.5, -0.5),
        xlim=(0, 1.02),
    )
    return figure


def latent_map(measured: pd.DataFrame) -> Figure:
    """Draw latent means in two dimensions by PCA and t-SNE, coloured by class, with its number at the median."""
    figure, both = new(9.6, 4.4, columns=2)
    for axes, (name, title) in zip(both, (("pca", "PCA"), ("tsne", "t-SNE")), strict=True):
        columns = [_rows(measured, f"latent_{name}_{axis}").set_index("x") for axis in (1, 2)]
        points = pd.DataFrame({"a": columns[0]["value"], "b": columns[1]["value"], "class": columns[0]["group"]})
        palette = sns.color_palette("colorblind", points["class"].nunique())
        sns.scatterplot(
            points.sort_values("class"),
            x="a",
            y="b",
            hue="class",
            palette=palette,
            s=9,
            linewidth=0,
            legend=False,
            rasterized=True,
            ax=axes,
        )
        for label, middle in points.groupby("class")[["a", "b"]].median().iterrows():
            axes.text(
                middle["a"],
                middle["b"],
                str(label),
                fontsize=15,
                weight="bold",
                ha="center",
                va="center",
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "black", "alpha": 0.8},
                color="#111111",
            )
        axes.set(xlabel=f"{title}, first dimension", ylabel=f"{title}, second dimension")
    return figure


def variants(table: pd.DataFrame) -> Figure:
    """Draw each variant's cost less that of its experiment, at the same epoch."""
    rows = table[table["difference"].notna()]
    figure, (axes,) = new(7.2, 1.0 + 0.45 * max(len(rows), 1))
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, row in enumerate(rows.to_dict("records")):
        axes.plot([row["low"], row["high"]], [place, place], color=COLORS[0], linewidth=2.5)
        axes.plot(row["difference"], place, "o", color=COLORS[1])
        axes.annotate(
            f"{row['difference']:+.2f}",
            (row["difference"], place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
        )
    axes.set_yticks(range(len(rows)), rows["variant"])
    span = float(rows["difference"].abs().max()) if len(rows) else 1.0
    axes.set(xlabel="cost of the variant less that of its experiment (nats per image)", ylim=(len(rows) - 0.5, -0.8))
    if span > 20:
        axes.set_xlabel(f"{axes.get_xlabel()}\nlinear from -1 to 1, logarithmic beyond")
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xlim(2 * min(0.0, rows["low"].min()) - 1, 2 * max(0.0, rows["high"].max()) + 1)
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    return figure


def several(curves: dict[str, pd.Series], first: int = 3) -> Figure:
    """Draw cost against epoch of several experiments, from epoch `first` on."""
    figure, (axes,) = new(7.2, 3.6)
    for number, (label, curve) in enumerate(curves.items()):
        shown = curve[curve.index >= first]
        axes.plot(
            shown.index,
            shown,
            color=COLORS[number],
            linestyle=("-", "--", "-.", ":")[number % 4],
            linewidth=1.8,
            label=label,
        )
    last = [float(curve.iloc[-1]) for curve in curves.values()]
    if last:
        axes.set_ylim(min(last) - 2, min(last) + 40)
    axes.set(xlabel="epoch", ylabel="training cost (nats per image)")
    axes.legend(frameon=False)
    return figure


def _rows(measured: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Return the rows of a quantity. Raises LookupError if there are none."""
    found = measured[measured["quantity"] == quantity]
    if found.empty:
        raise LookupError(quantity)
    return found


def new(width: float, height: float, columns: int = 1) -> tuple[Figure, tuple[Axes, ...]]:
    """Return a figure, of a size in inches, and its axes side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, tuple(figure.subplots(1, columns, squeeze=False)[0])


def _window(settled: pd.Series, final: float) -> tuple[float, float]:
    """Limits that leave out the first epochs, which are far above the others."""
    low, high = min(float(settled.min()), final), float(np.quantile(settled, 0.95))
    return low - 0.08 * (high - low), high + 0.1 * (high - low)
