"""Paired comparisons: the figures are those of SciPy's paired t test, over shared seeds alone."""

import pandas as pd
import pytest
from repro.analysis.paired import paired
from scipy import stats


def test_a_paired_comparison_is_the_paired_t_test_over_the_shared_seeds() -> None:
    first = pd.Series({3: 95.2, 1: 96.0, 2: 97.5, 8: 0.0})
    second = pd.Series({1: 95.0, 2: 97.0, 3: 95.1, 9: 0.0})
    found = paired(first, second)
    assert found is not None
    assert (found.seeds, found.n) == ((1, 2, 3), 3)
    expected = stats.ttest_rel([96.0, 97.5, 95.2], [95.0, 97.0, 95.1])
    interval = expected.confidence_interval(0.95)
    assert found.difference == pytest.approx((1.0 + 0.5 + 0.1) / 3)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.mark == "~", "the interval holds 0"


@pytest.mark.parametrize(("shift", "mark"), [(0.0, "~"), (5.0, ""), (-5.0, "")])
def test_the_mark_says_whether_the_two_can_be_told_apart(shift: float, mark: str) -> None:
    base = pd.Series({seed: 90.0 + seed for seed in range(5)})
    noise = pd.Series({seed: shift + (-1) ** seed * 0.1 for seed in range(5)})
    found = paired(base + noise, base)
    assert found is not None
    assert found.mark == mark


def test_one_seed_has_a_difference_and_no_interval_and_none_has_nothing() -> None:
    found = paired(pd.Series({1: 2.0}), pd.Series({1: 1.0, 2: 1.0}))
    assert found is not None
    assert (found.difference, found.low, found.high, found.mark) == (1.0, None, None, "")
    assert paired(pd.Series({1: 2.0}), pd.Series({2: 1.0})) is None
