"""The rank of a published curve among those of planned seeds."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from repro.analysis import curves
from scipy import stats
from support import synthetic

from repro import registry
from repro.images import Curve

FC = registry.get("mnist_fc")
LAST = FC.spec.reported[-1]
PLANNED = LAST.seeds


def published(cost: np.ndarray[Any, Any], error: float = 0.1) -> Curve:
    return Curve(np.arange(1.0, len(cost) + 1), cost, np.full(len(cost), error))


def bent(generator: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    """Smooth curves of 40 epochs that vary in height and bend."""
    epochs = np.arange(1, 41)
    bend = generator.normal(8, 1, (count, 1))
    return generator.normal(100, 1, (count, 1)) + 100 * np.exp(-epochs / bend)


def test_the_rank_of_a_curve_like_ours_is_uniform() -> None:
    generator, ranks = np.random.default_rng(0), []
    for _ in range(400):
        every = bent(generator, 13)
        ours = pd.DataFrame(every[:12].T, index=range(1, 41))
        ranks.append(curves.rank_among(published(every[12]), ours).rank)
    assert stats.chisquare(np.bincount(ranks, minlength=14)[1:]).pvalue > 0.01


def test_a_curve_unlike_ours_is_farthest_out_and_says_where() -> None:
    every = bent(np.random.default_rng(0), 13)
    strange = every[12].copy()
    strange[29] += 40
    found = curves.rank_among(published(strange), pd.DataFrame(every[:12].T, index=range(1, 41)))
    assert (found.rank, found.epoch, found.p) == (1, 30, pytest.approx(1 / 13))
    assert found.nats == pytest.approx(strange[29] - every[:12, 29].mean())
    assert found.published > max(found.distances)


def test_the_reading_error_is_the_least_scale() -> None:
    same = pd.DataFrame(np.full((40, 12), 100.0), index=range(1, 41))
    found = curves.rank_among(published(np.full(40, 100.3), error=0.1), same)
    assert found.published == pytest.approx(3.0)


def test_only_planned_seeds_that_reach_the_last_epoch_enter_the_rank_of_a_curve() -> None:
    rows = [{"seed": seed, "cost": LAST.cost} for seed in PLANNED] + [{"seed": 7, "cost": 0.0}]
    found = curves.rank(FC, LAST, synthetic.tables("mnist_fc", rows))
    assert found is not None
    assert found.seeds == PLANNED
    assert curves.rank(FC, LAST, synthetic.tables("mnist_fc", rows[:2])) is None
