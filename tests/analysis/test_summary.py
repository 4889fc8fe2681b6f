"""The cards of the report, and its claims by verdict."""

import pytest
from repro.analysis.claims import CLAIMS, Evidence
from repro.analysis.report import summary
from repro.analysis.report.document import Table
from support import synthetic
from support.planned import PLANNED, failed, judged, planned

PLAIN = [
    (0.3, 0.5, "The mean of 12 runs is 0.30 nats above the published 96.21; within 1.01 nats counts as reproduced; the "
     "published run is a typical one (p = "),
    (0.9, 0.05, "within 1.01 nats counts as reproduced; the published run is unlike ours (p = "),
    (-0.9, 1.0, "0.90 nats below the published 96.21; it is not shown to be within 1.01 nats; the published run is a "),
    (2.5, 0.1, "; this is more than chance explains, and not within 1.01 nats; the published run is unlike ours (p = "),
]  # fmt: skip


@pytest.mark.parametrize(("off", "half_range", "words"), PLAIN)
def test_a_verdict_has_a_meaning_in_plain_words(off: float, half_range: float, words: str) -> None:
    assert words in summary.meaning(judged(planned(off, half_range)))


def test_the_meaning_of_an_open_verdict_decides_nothing() -> None:
    rows = planned(0.3, 0.5)
    assert summary.meaning(judged([])) == "None of the 12 planned runs has finished. Nothing is known yet."
    said = summary.meaning(judged(rows[:7]))
    assert said.startswith("So far the mean of 7 of 12 planned runs is 0.")
    assert said.endswith("All 12 will decide whether it is within 1.01 nats; nothing is decided yet.")
    assert summary.meaning(judged([*rows[:-1], failed(111, "DIVERGED")])).endswith(" 1 run failed.")
    assert summary.meaning(judged([failed(seed, "DIVERGED") for seed in PLANNED])).startswith("Nothing is decided: 12")


@pytest.mark.parametrize(("count", "group"), [(12, "holds (1)"), (5, "open (1)"), (0, "open (1)")])
def test_each_claim_is_in_its_group_with_the_number_that_decides(count: int, group: str) -> None:
    (claim,) = (each for each in CLAIMS if each.name == "cost_mnist_fc")
    finding = claim.finding(Evidence(synthetic.tables("mnist_fc", planned(0.3, 0.5)[:count])))
    (table,) = summary.groups([(claim, finding)])
    assert isinstance(table, Table)
    assert table.frame.columns[0] == group
    number = table.frame["number that decides"].iloc[0]
    told = {12: "+0.30 nats from the published cost, margin 1.01", 5: "interim (5 of 12): ", 0: "not measured: python"}
    assert number.startswith(told[count])
