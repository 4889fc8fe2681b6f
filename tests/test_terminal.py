"""Tables: decimals, widths, and what a narrow terminal shows."""

import pytest

from repro.terminal import table

ROWS = [
    {"name": "a_long_name", "cost": 96.2119, "share": 0.5, "rate": 3.1e-4, "note": None},
    {"name": "b", "cost": 1840.12, "share": -0.04, "rate": 1e-2, "note": "trained on a stand-in for the data"},
    {"name": "c", "cost": None, "share": None, "rate": None, "note": ""},
]


def lines(capsys: pytest.CaptureFixture[str], **options: object) -> list[str]:
    table(ROWS, **options)  # type: ignore[arg-type]
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_pipe_gets_a_line_for_each_row_with_the_same_decimals_down_a_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert lines(capsys) == [
        "name             cost  share     rate  note",
        "a_long_name     96.21   0.50  0.00031  -",
        "b            1,840.12  -0.04  0.01000  trained on a stand-in for the data",
        "c                   -      -        -",
    ]


def test_a_number_that_spans_too_many_powers_is_scientific(capsys: pytest.CaptureFixture[str]) -> None:
    table([{"x": 1.5e12}, {"x": 2.0}, {"x": 0.0}])
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == ["x", "1.50e+12", "2.00e+00", "0.00e+00"]


def test_a_narrow_terminal_wraps_the_widest_column_at_its_spaces(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert lines(capsys)[2:4] == [
        "b            1,840.12  -0.04  0.01000  trained on a stand-in",
        "                                       for the data",
    ]


def test_a_narrower_one_leaves_columns_out(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "52")
    found = lines(capsys, spare=("rate", "share"))
    assert found[0] == "name             cost  share  note"
    assert found[-1] == "left out at 52 columns: rate"


def test_a_still_narrower_one_gets_lines_of_key_and_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "28")
    assert lines(capsys, spare=("rate",)) == [
        "name   a_long_name",
        "cost   96.21",
        "share  0.50",
        "rate   0.00031",
        "",
        "name   b",
        "cost   1,840.12",
        "share  -0.04",
        "rate   0.01000",
        "note   trained on a stand-in",
        "       for the data",
        "",
        "name   c",
    ]
