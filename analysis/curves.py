"""The place of a published cost curve among ours: it is taken as one more run and ranked."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from repro.analysis.tables import Tables
from repro.analysis.verdicts import outcomes

from repro import images, names
from repro.images import Curve
from repro.registry import Entry
from repro.spec import Reported

LEVEL = 0.1
"""A published curve whose p is at most this is unlike ours. The least p that thirteen curves give is 1/13 = 0.077."""
LEAST = 3
"""Fewest runs of which distances are taken: each needs a standard deviation over the others."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """A published curve's place among ours.

    `distances` are the largest standardised distances of our runs and `published` that of the published one; `rank` is
    the number of all n + 1 distances that are at least as large as the published one, so that p = rank / (n + 1) is its
    permutation p value. The published curve is farthest out at `epoch`, `nats` above the mean of ours.
    """

    seeds: tuple[int, ...]
    distances: tuple[float, ...]
    published: float
    rank: int
    epoch: int
    nats: float

    @property
    def p(self) -> float:
        """Return the permutation p value of the published curve."""
        return self.rank / (len(self.seeds) + 1)


def table_of(curves: pd.DataFrame, metric: str = names.COST) -> pd.DataFrame:
    """Return rows of `Tables.curves` as epochs by seeds."""
    return curves.pivot(index="epoch", columns="seed", values=metric).sort_index()


def place(entry: Entry, reported: Reported, tables: Tables) -> Place | None:
    """Return the place of a published curve among the planned runs that reach its last epoch; None if they are too few.

    Raises ReproError if the curve's file is damaged.
    """
    published = images.reported_curve(entry.file, reported)
    if published is None:
        return None
    runs, _ = outcomes(tables.runs[tables.runs["experiment"] == entry.name], reported.epoch)
    runs = runs[runs["seed"].isin(reported.seeds)]
    ours = table_of(tables.curves[tables.curves["run_id"].isin(runs["run_id"])])
    ours = ours.reindex(published.epoch.astype(int)).dropna(axis="columns")
    if len(ours.columns) < LEAST:
        return None
    return among(published, ours)


def among(published: Curve, ours: pd.DataFrame) -> Place:
    """Return the place of a published curve among ours, epochs by seeds, nats per image.

    The statistic of a curve is its largest distance over the epochs from the mean of the *other* curves, the published
    one among them, in standard deviations of these others, but at least in reading errors. All n + 1 curves are treated
    alike, so that, were the published run one of ours, each rank would be equally likely.
    """
    every = np.column_stack([ours.to_numpy(float), published.cost])
    distances, last = [], every.shape[1] - 1
    for index in range(last + 1):
        others = np.delete(every, index, axis=1)
        scale = np.maximum(others.std(axis=1, ddof=1), published.reading_error)
        off = every[:, index] - others.mean(axis=1)
        distances.append(np.abs(off) / np.where(scale > 0, scale, np.finfo(float).tiny))
    largest = [float(each.max()) for each in distances]
    farthest = int(distances[last].argmax())
    return Place(
        seeds=tuple(int(seed) for seed in ours.columns),
        distances=tuple(largest[:last]),
        published=largest[last],
        rank=sum(each >= largest[last] for each in largest),
        epoch=int(published.epoch[farthest]),
        nats=float(every[farthest, last] - every[farthest, :last].mean()),
    )
