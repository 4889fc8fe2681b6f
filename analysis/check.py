"""Compare a training curve of any program with the seeds of an experiment, and name the mistake that it looks like."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field
from repro.analysis import variants
from repro.analysis.claims.evidence import Evidence, MissingError
from repro.analysis.columns import NUMBER, Column, Schema, read_csv
from repro.analysis.curves import by_seed
from scipy import stats

from repro import images
from repro.errors import UsageError
from repro.registry import Entry
from repro.spec import Experiment

Unit = Literal["image", "batch", "pixel", "bits"]
"""What a cost is per: an image; a batch, as a sum; a pixel, as a mean; or bits per pixel and colour channel."""
MEANINGS: dict[Unit, str] = {
    "image": "nats per image",
    "batch": "a sum over the batch",
    "pixel": "a mean over the pixels",
    "bits": "bits per pixel and channel",
}
COLUMNS = Schema({"epoch": Column(Annotated[int, Field(ge=1, le=2**63 - 1)], "int64"), "cost": NUMBER}, ["epoch"])
LEVEL = 0.05
"""Chance that a curve like ours leaves the band at any of its epochs."""
LEAST = 3
"""Fewest seeds of a band."""


@dataclass(frozen=True)
class Leaving:
    """The first epoch at which a curve is outside the band, in nats per image; `beyond` is how far, with its sign."""

    epoch: int
    cost: float
    low: float
    high: float
    beyond: float


@dataclass(frozen=True)
class Likeness:
    """An experiment that a curve was compared with, after the cost was multiplied by `factor`.

    `distance` is the root mean square of the differences from its mean curve, nats per image.
    """

    experiment: str
    unit: Unit
    factor: float
    distance: float
    change: str


@dataclass(frozen=True)
class Check:
    """The answer: inside, or where the curve leaves the band; then the likenesses, the nearest first."""

    against: str
    unit: Unit  # of the curve, as the user gave it
    seeds: tuple[int, ...]
    epochs: int  # compared; the curve may have more
    leaving: Leaving | None
    likenesses: tuple[Likeness, ...]

    @property
    def inside(self) -> bool:
        return self.leaving is None

    def sentences(self) -> Iterator[str]:
        """Yield the answer in sentences."""
        seeds = f"{len(self.seeds)} seeds of {self.against}"
        nearest, where = self.likenesses[0], self.leaving
        if where is None:
            yield f"inside: all {self.epochs} epochs are in the band of {seeds}"
            if nearest.experiment != self.against:
                yield f"on average nearer to {nearest.experiment} ({nearest.change}) than to {self.against}"
            return
        yield (
            f"outside: at epoch {where.epoch} the cost is {where.cost:.2f}, and the band of {seeds} is {where.low:.2f} "
            f"to {where.high:.2f}: {abs(where.beyond):.2f} nats {'above' if where.beyond > 0 else 'below'} it"
        )
        if nearest.unit != self.unit:
            yield f"looks like {_mistake(nearest)}; give --per {nearest.unit}"
        if nearest.experiment != self.against:
            yield f"looks like {nearest.experiment} ({nearest.change}): {nearest.distance:.2f} nats from it on average"
        elif nearest.unit == self.unit:
            yield f"no variant with runs is nearer than {self.against} itself ({nearest.distance:.2f} nats on average)"


def read_curve(path: Path) -> pd.Series:
    """Return the costs, by epoch, in a CSV file with the columns epoch and cost. Raises ReproError with the place."""
    table = read_csv(path, COLUMNS, "curve")
    if table.empty:
        raise UsageError(f"{path} has no rows; it should have the columns epoch and cost")
    return table.set_index("epoch")["cost"].sort_index()


def factors(spec: Experiment) -> dict[Unit, float]:
    """Return by unit the factor that makes nats per image of a cost."""
    values = int(np.prod(spec.data.shape))
    return {"image": 1.0, "batch": 1 / spec.training.batch_size, "pixel": float(values), "bits": values * np.log(2)}


def band(ours: pd.DataFrame, margin: float) -> pd.DataFrame:
    """Return `low` and `high` by epoch, from curves by seed, nats per image.

    Half the width is that of Student's t prediction interval for one more seed, with Bonferroni's correction for the
    number of looks, plus `margin`, the difference that counts as none. Costs of neighbouring epochs are nearly the
    same: a curve counts as one look for each time that its length doubles. The standard deviation is the largest of
    an epoch and its two neighbours: that of a few seeds at a single epoch may be far too small by chance.
    """
    n, mean = len(ours.columns), ours.mean(axis=1)
    looks = 1 + np.log2(len(ours))
    quantile = stats.t.ppf(1 - LEVEL / (2 * looks), n - 1)
    std = ours.std(axis=1, ddof=1).rolling(3, center=True, min_periods=1).max()
    half = quantile * np.sqrt(1 + 1 / n) * std + margin
    return pd.DataFrame({"low": mean - half, "high": mean + half})


def check(curve: pd.Series, entry: Entry, evidence: Evidence, unit: Unit = "image") -> Check:
    """Compare a curve, by epoch, with the finished seeds of an experiment and with those of its variants.

    Raises UsageError if the experiment has too few seeds, or none that reaches an epoch of the curve.
    """
    ours = _curves(entry.name, curve.index, evidence)
    if ours is None or len(ours.columns) < LEAST:
        has = 0 if ours is None else len(ours.columns)
        raise UsageError(
            f"{entry.name} has {has} finished seeds at epochs of this curve, and a band takes {LEAST}; "
            f"train them, or read others with --results DIR: python -m repro run {entry.name} --seeds 100-102"
        )
    scale = factors(entry.spec)
    mine = curve.reindex(ours.index) * scale[unit]
    limits = _limits(ours, entry)
    beyond = (mine - limits["high"]).clip(lower=0) + (mine - limits["low"]).clip(upper=0)
    leaving = None
    for epoch in beyond.index[beyond != 0][:1]:
        low, high = limits.loc[epoch]
        leaving = Leaving(int(epoch), float(mine[epoch]), float(low), float(high), float(beyond[epoch]))
    likenesses: list[Likeness] = []
    for name, change in {entry.name: "", **variants.changes_of(entry.name)}.items():
        theirs = _curves(name, curve.index, evidence)
        if theirs is None:
            continue
        for per, factor in scale.items():
            differences = curve.reindex(theirs.index) * factor - theirs.mean(axis=1)
            distance = float(np.sqrt((differences**2).mean()))
            likenesses.append(Likeness(name, per, factor, distance, change))
    likenesses.sort(key=lambda each: each.distance)
    return Check(entry.name, unit, tuple(map(int, ours.columns)), len(ours), leaving, tuple(likenesses))


def sentence(cost: float, epoch: int, entry: Entry, evidence: Evidence | None) -> str:
    """Put the cost of a run's last epoch, nats per image, beside the published curve and our seeds' band there.

    What is not known at this epoch is left out; "" if neither is known. `evidence` is None for an experiment that is
    not registered. Raises ReproError if the file of the published curve is damaged.
    """
    parts = [f"epoch {epoch}: {cost:.2f}"]
    published = images.reported_curve(entry.file, entry.spec.reported[-1]) if entry.spec.reported else None
    if published:
        for index in np.flatnonzero(published.epoch == epoch):
            error = f" ± {published.reading_error[index]:.2f}" if published.reading_error[index] else ""
            parts.append(f"the published run had {published.cost[index]:.2f}{error} there")
    ours = _curves(entry.name, pd.RangeIndex(1, epoch + 1), evidence) if evidence else None
    if ours is not None and len(ours.columns) >= LEAST and epoch in ours.index:
        low, high = _limits(ours, entry).loc[epoch]
        where = "inside" if low <= cost <= high else "outside"
        parts.append(f"the band of {len(ours.columns)} of our seeds is {low:.2f} to {high:.2f}: {where}")
    return "; ".join(parts) if len(parts) > 1 else ""


def _limits(ours: pd.DataFrame, entry: Entry) -> pd.DataFrame:
    return band(ours, max((each.margin or 0.0 for each in entry.spec.reported), default=0.0))


def _curves(name: str, epochs: pd.Index, evidence: Evidence) -> pd.DataFrame | None:
    """Return the costs of an experiment's seeds at those of these epochs that they share; None if there are none.

    Of seeds of several lengths those count that reach the most epochs.
    """
    try:
        found = by_seed(evidence.tables.curves_of(evidence.trained(name)))
    except MissingError:
        return None
    shared = found.reindex(epochs).dropna(how="all")
    return None if shared.empty else shared.dropna(axis="columns")


def _mistake(nearest: Likeness) -> str:
    times = f"{max(nearest.factor, 1 / nearest.factor):,.4g} times too {'small' if nearest.factor > 1 else 'large'}"
    return f"{MEANINGS[nearest.unit]}: {times}"
