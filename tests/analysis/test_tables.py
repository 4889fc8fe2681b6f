"""Committed results: folders written by earlier versions are read, and a damaged field is named in one sentence."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from repro.analysis.columns import LARGEST_FILE
from repro.analysis.sweeps import Sweeps
from repro.analysis.tables import Tables

from repro import cli
from repro.errors import ReproError

EARLIER = Path(__file__).parent / "results"
"""A few rows of results that were committed before."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return shutil.copytree(EARLIER, tmp_path / "results")


def edit(path: Path, row: int, column: str, text: str) -> None:
    """Change one field of a CSV file; row 1 is the header."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    rows[row - 1][rows[0].index(column)] = text
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def test_a_results_folder_of_an_earlier_version_is_read_and_written_as_it_was(results: Path, tmp_path: Path) -> None:
    for found in (Tables.from_files(results), Sweeps.from_files(results)):
        for path in found.save(tmp_path / "again"):
            assert path.read_text() == (results / path.name).read_text()


def test_unknown_columns_are_ignored(results: Path) -> None:
    before = Tables.from_files(results)
    path = results / "runs.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(f"{text},{line}" for text, line in zip(("new", "1", "2"), lines, strict=True)) + "\n")
    assert Tables.from_files(results).runs.equals(before.runs)


FAULTS = [
    *(("runs", 3, column, text) for column in ("seed", "epochs") for text in ("", "nan", "inf", "1e400", "-1", "two")),
    ("runs", 2, "cost", "nan"),
    ("runs", 2, "cost", ""),
    ("runs", 2, "test_neg_elbo", ""),
    ("runs", 2, "comparable", "perhaps"),
    ("runs", 2, "run_id", "<b>run</b>"),
    ("runs", 3, "epochs", "9"),
    ("runs", 2, "plan", '{"margin": 1.0}'),
    *(("runs", 2, "plan", f'[{{"cost": 1.0, "epoch": 10, "margin": {text}}}]') for text in ("NaN", "1e400", '""')),
    ("runs", 2, "plan", '[{"cost": 1.0, "epoch": 10, "seeds": [-1]}]'),
    ("curves", 4, "cost", ""),
    ("curves", 4, "epoch", "inf"),
    ("measurements", 3, "value", "1e400"),
    ("measurements", 3, "x", "one"),
    ("trials", 2, "value", ""),
    ("trials", 2, "value", "nan"),
    ("trials", 2, "settings", '["optim.lr"]'),
    ("trials", 2, "settings", '{"optim.lr": NaN}'),
    ("trials", 2, "settings", "{"),
    ("trials", 2, "space", "[]"),
    ("trials", 3, "epochs", "-30"),
    ("trials", 3, "study", "../../other"),
    ("retrained", 2, "test_neg_elbo", '{"1": 2.0}'),
    ("retrained", 2, "test_neg_elbo", "[null]"),
    ("retrained", 2, "trial_value", ""),
    *(("runs", 2, column, "\x1b[31mred") for column in ("reason", "cpu", "data")),
    *(("trials", 2, column, "=1+1") for column in ("reason", "sampler", "runs")),
    ("runs", 2, "cpu", "\u202etxt.exe"),
    ("runs", 2, "run_id", "x" * 300),
    ("runs", 2, "seed", "9" * 30),
    ("runs", 2, "cost", "1e300"),
    ("runs", 2, "threads", "1; rm -rf ~"),
    ("curves", 4, "seed", "7"),
    ("measurements", 2, "experiment", "mnist_fc"),
    ("trials", 2, "experiment", "mnist_fcc"),
    ("trials", 2, "trial", "1.5"),
]


@pytest.mark.parametrize(("name", "row", "column", "text"), FAULTS)
def test_a_damaged_field_is_one_sentence_that_names_file_row_and_column(
    results: Path, name: str, row: int, column: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(results / f"{name}.csv", row, column, text)
    assert cli.main(["report", "--check", "--results", str(results)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"results file {results / name}.csv, row {row}, column {column}: " in line
    assert "unexpected" not in line


def test_a_row_that_is_there_twice_is_refused(results: Path) -> None:
    edit(results / "curves.csv", 3, "epoch", "1")
    with pytest.raises(ReproError, match=r"curves\.csv, row 3, column run_id and epoch: the same as in a row above"):
        Tables.from_files(results)


def test_all_faults_of_a_file_are_named_together(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row, column, text in ((2, "seed", "x"), (3, "seed", "y"), (3, "cost", "inf")):
        edit(results / "runs.csv", row, column, text)
    assert cli.main(["report", "--results", str(results)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("runs.csv, ")[2].partition(":")[0] for line in lines] == [
        "row 2, column seed", "row 3, column cost", "row 3, column seed",
    ]  # fmt: skip
    assert not (results / "report.html").exists()


WHOLE: dict[str, Callable[[Path], object]] = {
    "no file": lambda path: path.unlink(),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "nothing in it": lambda path: path.write_bytes(b""),
    "another encoding": lambda path: path.write_text(path.read_text(), encoding="utf-16"),
    "no CSV": lambda path: path.write_bytes(bytes(range(256))),
    "a quote that is not closed": lambda path: path.write_text(path.read_text() + '"'),
    "a column twice": lambda path: path.write_text(path.read_text().replace("seed", "run_id", 1)),
    "an absurd size": lambda path: os.truncate(path, LARGEST_FILE + 1),
}


@pytest.mark.parametrize("damage", WHOLE)
def test_a_file_that_is_no_table_is_one_sentence(
    results: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    WHOLE[damage](results / "runs.csv")
    assert cli.main(["compare", "--results", str(results)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: results file {results / 'runs.csv'}")


def test_text_is_escaped_in_html_and_markdown(results: Path) -> None:
    hostile = '<img src=x onerror="alert(1)"> [a](javascript:b) $\\foo$ `c` | d'
    for name in ("runs", "trials", "measurements"):
        for column in ("cpu", "data", "sampler", "state", "unit", "group", "started", "commit"):
            with suppress(ValueError):
                edit(results / f"{name}.csv", 2, column, hostile)
    edit(results / "trials.csv", 2, "space", json.dumps({"optim.lr": hostile}))
    assert cli.main(["report", "--results", str(results)]) == 0
    for path in (results / "report.html", results.parent / "RESULTS.md"):
        text = path.read_text(encoding="utf-8")
        assert "&lt;img" in text
        assert "<img src=x" not in text
        assert "](javascript" not in text or path.suffix == ".html"


def test_text_of_the_store_is_made_plain_so_that_what_is_saved_can_be_read(results: Path) -> None:
    before = Tables.from_files(results)
    row = before.runs.iloc[0].to_dict() | {"cpu": "=1+1\x1b\nnext"}
    found = Tables.from_rows(runs=[row])
    assert found.runs.loc[0, "cpu"] == "'=1+1\\x1b\\nnext"
    Tables(found.runs, before.curves_of(found.runs), before.measurements).save(results)
    assert Tables.from_files(results).runs.equals(found.runs)


@pytest.mark.parametrize("line", ["too,few", "far" + ",too many" * 40])
def test_a_row_of_another_length_is_refused(results: Path, line: str) -> None:
    with (results / "runs.csv").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(ReproError, match=r"runs\.csv") as error:
        Tables.from_files(results)
    assert all("row 4" in each or "line 4" in each for each in str(error.value).splitlines())
