"""Pictures from arrays: image grids, and a cost curve over the reported one."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repro.errors import ReproError
from repro.spec import Reported

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]
MOST_PIXELS = 2**25  # of a picture that is read
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # told apart by colour-blind readers too


@dataclass(frozen=True)
class Curve:
    """A published cost curve, read from a plot: nats per image, with the half-width of the reading."""

    epoch: NDArray[np.float64]
    cost: NDArray[np.float64]
    reading_error: NDArray[np.float64]


def read_curve(path: Path) -> Curve:
    """Read a CSV with columns epoch, cost and reading_error. Raises ReproError naming the file and the line."""
    import pandas as pd  # noqa: PLC0415 - as for matplotlib

    columns = [field.name for field in fields(Curve)]
    try:
        read = pd.read_csv(path, usecols=columns, index_col=False, dtype=str)[columns]
    except (OSError, ValueError) as error:
        raise ReproError(f"reported curve {path} cannot be read: {' '.join(str(error).split())}") from None
    table = read.map(_number).to_numpy(dtype=np.float64)
    for index in np.flatnonzero(~np.isfinite(table).all(axis=1))[:1]:
        row = read.iloc[index].tolist()
        raise ReproError(f"reported curve {path}, line {index + 2}: {row} should be finite numbers")
    if not len(table) or (np.diff(table[:, 0]) <= 0).any():
        raise ReproError(f"reported curve {path}: needs rows, with epochs that rise")
    return Curve(*table.T)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def reported_curve(file: Path, reported: Reported) -> Curve | None:
    """Return the curve published with a result of the experiment in `file`, or None. Raises as `read_curve`."""
    return read_curve(file.parent / reported.curve) if reported.curve else None


def read_png(path: Path) -> bytes:
    """Return the bytes of a sheet of images. Raises ReproError if the file is no picture, or one of absurd size."""
    from PIL import Image  # noqa: PLC0415 - as for matplotlib

    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ReproError(f"picture {path} has {image.width} x {image.height} pixels; most are {MOST_PIXELS:,}")
            image.verify()
        return path.read_bytes()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ReproError(f"picture {path} cannot be read: {' '.join(str(error).split())}") from None


def grid(images: NDArray[np.floating[Any]], columns: int) -> Pixels:
    """Put images in rows of `columns`. Pixels in [0, 1] [N, C, H, W], C 1 or 3 -> uint8 [rows * H, columns * W, C]."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, channels, height, width), dtype=np.uint8)
    sheet[:count] = np.rint(images.clip(0, 1) * 255)
    tiles = sheet.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(tiles.reshape(rows * height, columns * width, channels))


def pairs(originals: NDArray[np.floating[Any]], copies: NDArray[np.floating[Any]], columns: int) -> Pixels:
    """Put each row of originals above the row of their reconstructions. [N, C, H, W] twice -> as `grid`."""
    rows = []
    for start in range(0, len(originals), columns):
        rows += [originals[start : start + columns], copies[start : start + columns]]
    return grid(np.concatenate(rows), columns)


def cost_curve(title: str, runs: Mapping[str, Mapping[int, float]], reported: Curve | None) -> "Figure":
    """Plot the training cost against the epoch, each run over the reported curve and its reading error."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - a run should not wait for it before its first step

    figure = Figure(figsize=(7.2, 4.4), layout="constrained", dpi=110)
    axes = figure.subplots()
    last = max((epoch for curve in runs.values() for epoch in curve), default=1)
    if reported is not None:
        seen = slice(0, max(int(np.searchsorted(reported.epoch, last, side="right")), 2))
        epochs, costs, error = reported.epoch[seen], reported.cost[seen], reported.reading_error[seen]
        label = "reported, reading error"
        axes.fill_between(epochs, costs - error, costs + error, color="0.75", linewidth=0, label=label)
        axes.plot(epochs, costs, color="0.25", linewidth=1.2, label="reported")
    for (label, curve), color in zip(runs.items(), itertools.cycle(COLORS), strict=False):
        points = sorted(curve.items())
        marker = "o" if last < 20 else None
        axes.plot(*zip(*points, strict=True), color=color, linewidth=1.6, marker=marker, label=label)
    if last >= 20:  # the first epochs are far above the rest, which has to be seen
        shown = [cost for curve in runs.values() for cost in curve.values()]
        low, high = min(shown), float(np.quantile(shown, 0.97))
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    axes.set(title=title, xlabel="epoch", ylabel="training cost (nats per image)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure
