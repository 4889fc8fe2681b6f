"""Committed results: folders written by earlier versions are read, and a damaged field is named in one sentence."""

import csv
import shutil
from pathlib import Path

import pytest
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


@pytest.mark.parametrize("line", ["too,few", "far" + ",too many" * 40])
def test_a_row_of_another_length_is_refused(results: Path, line: str) -> None:
    with (results / "runs.csv").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(ReproError, match=r"runs\.csv") as error:
        Tables.from_files(results)
    assert len(str(error.value).splitlines()) == 1
