"""The search space, and what a `sweep` command refuses: every fault is a line of its own."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import cli
from repro.errors import UsageError
from repro.spec import Choice, Experiment, Integers, LogUniform, Range, Space, Uniform
from repro.spec.ranges import assignment, tried_values
from repro.sweep import space as spaces


def floats(low: float) -> st.SearchStrategy[float]:
    """Of as many digits as a range prints."""
    return st.floats(low, 1e300, allow_nan=False).map(lambda number: float(f"{number:.12g}"))


texts = st.text("abcdefxyz_", min_size=1).filter(lambda word: word not in ("nan", "inf", "infinity"))
ranges = st.one_of(
    st.builds(LogUniform, floats(1e-300), floats(1e-300)),
    st.builds(Uniform, floats(-1e300), floats(-1e300)),
    st.builds(Integers, st.integers(), st.integers()),
    st.lists(st.integers() | st.floats(allow_nan=False) | texts, min_size=1).map(lambda values: Choice(*values)),
)


@given(ranges)
def test_a_range_is_read_back_as_it_is_printed(each: Range) -> None:
    found = spaces.parse(str(each))
    assert found == each
    assert [type(value) for value in tried_values(found)] == [type(value) for value in tried_values(each)]


@given(st.floats(allow_nan=False))
def test_a_drawn_number_is_assigned_with_all_its_digits(number: float) -> None:
    key, _, text = assignment("optim.lr", number).partition("=")
    assert (key, float(text)) == ("optim.lr", number)


def test_a_range_replaces_the_experiments_own(small: Experiment) -> None:
    own: Space = {"optim.lr": LogUniform(1e-4, 1e-2), "model.latent": Choice(2, 5)}
    spec = replace(small, sweep=own)
    assert spaces.read(spec, ["optim.lr=0.5", "training.batch_size = 50, 100"]) == {
        "optim.lr": Choice(0.5),
        "model.latent": Choice(2, 5),
        "training.batch_size": Choice(50, 100),
    }
    assert own == {"optim.lr": LogUniform(1e-4, 1e-2), "model.latent": Choice(2, 5)}


FAULTS = {
    "optim.lr": f"--space optim.lr: should be {spaces.FORM}",
    "=1,2": f"--space =1,2: should be {spaces.FORM}",
    "optim.lr=": f"--space optim.lr=: should be {spaces.FORM}",
    "optim.lr=1,,2": "has an empty value",
    "optim.lr=log:1": "log: should be followed by two numbers, LOW:HIGH",
    "training.batch_size=int:1:2.5": "int: should be followed by two whole numbers, LOW:HIGH",
    "optim.lr=log:1e-2:1e-4": "should ascend, from low to high; 0.01 is not below 0.0001",
    "optim.lr=log:0:1": "should be above 0 on a logarithmic scale",
    "optim.lr=uniform:nan:1": "should have finite ends",
    "optim.lr=log:1:inf": "should have finite ends",
    "optim.lr=0.1,0.2,0.1": "names 0.1 more than once",
    "optim.lr=logg:1:2": "optim.lr='logg:1:2': should be a valid number",
    "optim.lrr=log:1e-4:1e-2": "unknown override 'optim.lrr', did you mean 'lr'?",
    "optim=1,2": "override 'optim' names a group",
    "optim.lr=0.1,quick": "optim.lr='quick': should be a valid number",
    "training.batch_size=uniform:50:100": "training.batch_size='75.00000000000001': should be a valid integer",
    f"training.batch_size=int:1:1{'0' * 400}": "should be",
    "training.kl=closed_form,closed": "training.kl='closed': should be 'closed_form' or 'as_printed'",
    "training.epochs=int:1:5": "is what --epochs is for",
    "data.holdout=0,5000": "decides what trials are judged by",
    "reported.cost=1,2": "unknown override 'reported.cost'",
}


@pytest.mark.parametrize("text", FAULTS, ids=lambda text: text[:40])
def test_each_fault_of_a_space_is_one_line(text: str, small: Experiment) -> None:
    with pytest.raises(UsageError) as caught:
        spaces.read(small, [text])
    (line,) = caught.value.faults
    assert line.startswith(f"--space {text.partition('=')[0]}")
    assert FAULTS[text] in line
    assert "\n" not in line


def test_an_empty_space_and_one_of_no_range_are_faults(small: Experiment) -> None:
    with pytest.raises(UsageError, match="there is nothing to search: the experiment names no sweep; give --space"):
        spaces.read(small, [])
    with pytest.raises(UsageError, match=r"optim\.lr=: is empty"):
        spaces.read(replace(small, sweep={"optim.lr": Choice()}), [])
    with pytest.raises(UsageError, match="should be a LogUniform, a Uniform, Integers or a Choice"):
        spaces.read(replace(small, sweep={"optim.lr": (1e-4, 1e-2)}), [])  # type: ignore[dict-item]


def test_cells_are_every_combination_of_lists_only() -> None:
    cells = spaces.cells({"a": Choice(1, 2), "b": Choice("x"), "c": Choice(0.5, 1.5)})
    assert [tuple(cell.values()) for cell in cells] == [(1, "x", 0.5), (1, "x", 1.5), (2, "x", 0.5), (2, "x", 1.5)]
    with pytest.raises(UsageError) as caught:
        spaces.cells({"a": Choice(1), "b": Integers(1, 2), "c": Uniform(0, 1)})
    assert [line.split(" is ")[0] for line in caught.value.faults] == [
        "--sampler grid: b=int:1:2", "--sampler grid: c=uniform:0:1",
    ]  # fmt: skip
    assert len(spaces.cells({"a": Choice(*range(10_000))})) == 10_000
    with pytest.raises(UsageError, match="more than 10,000 combinations"):
        spaces.cells({"a": Choice(*range(10_000)), "b": Choice(1, 2)})


SPACE = ["--space", "optim.lr=0.1,0.2"]


@pytest.mark.usefixtures("small_file")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["small.py"], ["there is nothing to search"]),
        (["run", "small.py", "--space", "a=1,2", "--space", "optim.lr"], ["should be KEY=log", "override 'a'"]),
        (["run", "small.py", "--sampler", "grid", "--space", "optim.lr=log:1e-3:1e-2"], ["is no list; --space"]),
        (["small.py", "--trials", "0"], ["Invalid value for '--trials'"]),
        (["--jobs", "65", "small.py"], ["Invalid value for '--jobs'"]),
        (["retrain", "small.py", "--best", "0"], ["Invalid value for '--best'"]),
        (["small.py", *SPACE, "--study", "../../x"], ["--study '../../x': should be of letters"]),
        (["small.py", *SPACE, "--study", "x" * 101], ["at most 100"]),
        (["small.py", *SPACE, "--study", "a\nb"], ["--study 'a\\nb'"]),
        (["small.py", *SPACE, "--storage", "mysql://me@h/x"], ["--storage mysql://me@h/x: should be"]),
        (["retrain", "small.py", "--data", "stand-in"], ["no study 'small'; there are: none yet"]),
        (["status", "smal"], ["no study 'smal'; there are: none yet"]),
        (["small.py", "--finish"], ["sweep --finish: is a command of its own now: python -m repro sweep retrain NAME"]),
        (["--status"], ["sweep --status: is a command of its own now: python -m repro sweep status [STUDY]"]),
    ],
)
def test_a_refused_command_leaves_nothing_behind(
    arguments: list[str], said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(tmp_path.iterdir())
    assert cli.main(["sweep", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.lower().startswith("error: ")]
    assert len(lines) == len(said)
    for line, words in zip(lines, said, strict=True):
        assert words in line
    assert {path for path in tmp_path.iterdir() if path.name != "__pycache__"} == before
