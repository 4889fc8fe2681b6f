"""The whole cost curve against the reported one: where its knees fall, and how far it strays after them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from repro import figures
from repro.figures import Curve
from repro.registry import Entry
from repro.tracking import names

FALLS = (0.5, 0.9)
"""Knees are where this share of the way from the second epoch's cost to the reported final cost is done.

The second, since the first epoch's mean has in it the steps that find the mean image.
"""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """An experiment's curves beside the reported one. Epochs may lie between two; deviations are of the seeds' mean."""

    experiment: str
    seeds: tuple[int, ...]
    knees_reported: tuple[float, ...]  # for each of FALLS
    knees_read: tuple[tuple[float, float], ...]  # first and last epoch that the reading error leaves to each of them
    knees: tuple[tuple[float, ...], ...]  # for each of FALLS, each seed's
    largest_deviation: float | None  # in reading errors, with its sign, after the last reported knee
    largest_epoch: int | None
    largest_nats: float | None
    share_within: float | None  # of the epochs after it: within the reading error and the margin


def reported_curve(entry: Entry) -> Curve | None:
    """The curve that was published with an experiment, or None. Raises ReproError if its file is damaged."""
    reported = entry.spec.reported
    if reported is None or reported.curve is None:
        return None
    return figures.read_curve(entry.file.parent / reported.curve)


def table_of(curves: pd.DataFrame, metric: str = names.COST) -> pd.DataFrame:
    """Rows of `Frames.curves` as epochs by seeds."""
    return curves.pivot(index="epoch", columns="seed", values=metric).sort_index()


def compare(entry: Entry, curves: pd.DataFrame, reported: Curve, margin: float) -> Comparison:
    """Compare the seeds' curves, rows of `Frames.curves` of the runs that count, with the reported one."""
    seeds, final = table_of(curves), float(reported.cost[-1])
    expected = knees(reported.epoch, reported.cost, final)
    epochs = seeds.index.to_numpy(float)
    found = [knees(epochs, seeds[seed].to_numpy(float), final) for seed in seeds]
    after = (reported.epoch > expected[-1]) & (reported.reading_error > 0)
    common = after & np.isin(reported.epoch, epochs)
    largest = epoch = nats = within = None
    if common.any():
        mean = seeds.mean(axis=1).reindex(reported.epoch[common]).to_numpy(float)
        off, error = mean - reported.cost[common], reported.reading_error[common]
        worst = int(np.argmax(np.abs(off / error)))
        largest, nats, epoch = float(off[worst] / error[worst]), float(off[worst]), int(reported.epoch[common][worst])
        within = float((np.abs(off) <= error + margin).mean())
    return Comparison(
        entry.name,
        tuple(int(seed) for seed in seeds),
        expected,
        readings(reported),
        tuple(zip(*found, strict=True)),
        largest,
        epoch,
        nats,
        within,
    )


def knees(epoch: Values, cost: Values, final: float) -> tuple[float, ...]:
    """The epochs at which a curve has done each of FALLS, between two epochs by a straight line; NaN if it never has.

    [N], [N], nats per image -> one for each share.
    """
    if len(cost) < 2:
        return (float("nan"),) * len(FALLS)
    return tuple(_crossing(epoch, cost, cost[1] + share * (final - cost[1])) for share in FALLS)


def readings(reported: Curve) -> tuple[tuple[float, float], ...]:
    """Where the knees of a curve may be that was read with an error: the first and the last epoch of each.

    The cost that the fall starts from may be off by its own error, apart from those of the epochs that follow.
    """
    found = []
    for share in FALLS:
        ends = []
        for start in (-1, 0, 1):
            first = reported.cost[1] + start * reported.reading_error[1]
            level = first + share * (reported.cost[-1] - first)
            ends += [_crossing(reported.epoch, reported.cost + s * reported.reading_error, level) for s in (-1, 0, 1)]
        found.append((min(ends), max(ends)))
    return tuple(found)


def _crossing(epoch: Values, cost: Values, level: float) -> float:
    below = np.flatnonzero(cost[1:] <= level)
    if not len(below):
        return float("nan")
    last = int(below[0]) + 1
    before, after = cost[last - 1], cost[last]
    return float(epoch[last - 1] + (before - level) / (before - after) * (epoch[last] - epoch[last - 1]))
