"""Rank a published cost curve among ours, as if it were one more run."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from repro.analysis.tables import Row, Tables
from repro.analysis.verdicts import outcomes

from repro import images, names
from repro.images import Curve
from repro.registry import Entry
from repro.spec import Reported

LEVEL = 0.1
"""A published curve whose p is at most this is unlike ours. The least p that thirteen curves give is 1/13 = 0.077."""
LEAST = 3
"""Fewest runs for a rank: each distance needs a standard deviation over the other curves."""


@dataclass(frozen=True)
class CurveRank:
    """The rank of a published curve among n curves of ours.

    `distances` are the largest standardised distances of our curves and `published` that of the published one. `rank`
    counts the n + 1 distances that are at least as large as `published`, so p = rank / (n + 1) is a permutation p
    value. The published curve is farthest from ours at `epoch`, `nats` above our mean.
    """

    seeds: tuple[int, ...]
    distances: tuple[float, ...]
    published: float
    rank: int
    epoch: int
    nats: float

    @property
    def p(self) -> float:
        return self.rank / (len(self.seeds) + 1)


def by_seed(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the costs of rows of `Tables.curves` as a table of epochs by seeds."""
    return curves.pivot(index="epoch", columns="seed", values=names.COST).sort_index()


def rank(entry: Entry, reported: Reported, tables: Tables) -> CurveRank | None:
    """Return the rank of a published curve among the planned runs that reach its last epoch; None if they are too few.

    Raises ReproError if the curve's file is damaged.
    """
    published = images.reported_curve(entry.file, reported)
    if published is None:
        return None
    runs, _ = outcomes(tables.runs_of(entry.name), reported.epoch)
    ours = by_seed(tables.curves_of(runs[runs["seed"].isin(reported.seeds)]))
    ours = ours.reindex(published.epoch.astype(int)).dropna(axis="columns")
    return rank_among(published, ours) if len(ours.columns) >= LEAST else None


def rank_among(published: Curve, ours: pd.DataFrame) -> CurveRank:
    """Return the rank of a published curve among ours, epochs by seeds, nats per image.

    The distance of a curve is its largest difference over the epochs from the mean of the *other* curves, in their
    standard deviations, but at least in reading errors. The others include the published curve: all n + 1 curves are
    treated alike, so each rank is equally likely if the published run is one of ours.
    """
    every = np.column_stack([ours.to_numpy(float), published.cost])
    distances = []
    for index in range(every.shape[1]):
        others = np.delete(every, index, axis=1)
        scale = np.maximum(others.std(axis=1, ddof=1), published.reading_error)
        difference = np.abs(every[:, index] - others.mean(axis=1))
        distances.append(difference / np.where(scale > 0, scale, np.finfo(float).tiny))
    *largest, published_largest = (float(each.max()) for each in distances)
    farthest = int(distances[-1].argmax())
    return CurveRank(
        seeds=tuple(int(seed) for seed in ours.columns),
        distances=tuple(largest),
        published=published_largest,
        rank=1 + sum(each >= published_largest for each in largest),
        epoch=int(published.epoch[farthest]),
        nats=float(published.cost[farthest] - every[farthest, :-1].mean()),
    )


def rows(entries: Iterable[Entry], tables: Tables) -> list[Row]:
    """Return the rank of each published curve that has one, as rows of a table.

    Raises ReproError if the file of a published curve is damaged.
    """
    return [
        {
            "experiment": entry.name,
            "epochs": f"1 to {reported.epoch}",
            "seeds": f"{len(found.seeds)} of {len(reported.seeds)}",
            "rank": f"{found.rank} of {len(found.seeds) + 1}",
            "p": found.p,
            "published_distance": found.published,
            "our_distances": f"{min(found.distances):.1f} to {max(found.distances):.1f}",
            "farthest_at_epoch": found.epoch,
            "nats_there": found.nats,
        }
        for entry in entries
        for reported in entry.spec.reported
        if (found := rank(entry, reported, tables))
    ]
