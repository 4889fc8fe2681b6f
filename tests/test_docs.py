"""The troubleshooting page names messages that the program has."""

import re

import pytest
from support.process import ROOT

MESSAGES = re.findall(r"^## (`.*)$", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
SOURCE = "".join(
    path.read_text(encoding="utf-8") for folder in ("repro", "analysis") for path in (ROOT / folder).rglob("*.py")
)


def test_there_are_ten_messages() -> None:
    assert len(MESSAGES) == 10


@pytest.mark.parametrize("heading", MESSAGES)
def test_the_program_has_each_message_of_the_troubleshooting_page(heading: str) -> None:
    for message in re.findall("`([^`]+)`", heading):
        parts = [part.strip(" :;") for part in re.split(r"…|'[^']*'|\?|\d+|/mlruns|python -m repro sync", message)]
        assert any(len(part) > 5 for part in parts)
        for part in parts:
            assert part in SOURCE
