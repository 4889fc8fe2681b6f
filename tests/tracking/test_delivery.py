"""What the user is told of a tracking store that refuses records."""

from pathlib import Path

from repro.tracking.delivery import TOLD_AFTER, Delivery
from repro.tracking.outbox import Outbox, Record


def test_a_failure_in_passing_is_not_told_and_one_that_lasts_is_told_once(tmp_path: Path) -> None:
    failures = 1

    def send(_record: Record, _in_doubt: bool) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise ValueError("database is locked")

    outbox = Outbox(tmp_path)
    delivery = Delivery(outbox, send)
    outbox.append({"kind": "tags", "tags": {"a": "1"}})
    assert [delivery.attempt(), delivery.attempt()] == [False, True]
    assert delivery.news() == []

    failures = TOLD_AFTER + 2
    outbox.append({"kind": "tags", "tags": {"a": "2"}})
    while not delivery.attempt():
        pass
    assert [text.partition(":")[0].partition(",")[0] for text in delivery.news()] == [
        "the tracking store does not answer",
        "the tracking store answers again; nothing is lost",
    ]
