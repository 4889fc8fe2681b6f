"""The simulated error rates of a verdict."""

import numpy as np
import pytest
from repro.analysis import verdicts
from repro.analysis.verdicts import Verdict, judge, word
from repro.benchmarks import verdicts as simulation

from repro import registry

FC = registry.get("mnist_fc")
LAST = FC.spec.reported[-1]
PLANNED, MARGIN = LAST.seeds, 1.01
BLANK = Verdict("mnist_fc", LAST.epoch, LAST.cost, "interim", "", 0, len(PLANNED), MARGIN)


def test_the_simulation_decides_as_the_verdict_does() -> None:
    costs = np.random.default_rng(1).normal(96.5, 0.7, (300, 12))
    mean, std = costs.mean(1), costs.std(1, ddof=1)
    said = [word(judge(BLANK, row.tolist())) for row in costs]
    half, beyond = verdicts.half_widths(std, 12)
    reached, out = np.abs(mean - LAST.cost) + half < MARGIN, np.abs(mean - LAST.cost) > beyond
    assert [each == "reproduced" for each in said] == reached.tolist()
    assert [each.startswith("different") for each in said] == (~reached & out).tolist()
    assert 0 < reached.sum() < 300


def test_error_rates_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "REPEATS", 20_000)
    at_margin = simulation.rates(12, 1.01, 0.5, 1.01)["reproduced"]
    assert at_margin == pytest.approx(0.05, abs=0.006)
    assert simulation.by_the_earlier_rule(1.01, 0.5) > 0.14
    one_of_ours = simulation.rates(12, 1.01, 3.0, 0.0, one_of_ours=True)
    assert one_of_ours["different"] == pytest.approx(0.05, abs=0.006)
