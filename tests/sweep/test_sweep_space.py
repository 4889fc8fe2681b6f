"""What `--space` says: every form is read back as it is printed, and every fault is a line of its own."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import cli
from repro.errors import UsageError
from repro.spec import Choice, Experiment, Integers, LogUniform, Range, Space, Uniform
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
    found = spaces.changed({}, [f"a.b={each}"], faults := [])
    assert not faults
    assert found == {"a.b": each}
    assert [type(value) for value in spaces._ends(found["a.b"])] == [type(value) for value in spaces._ends(each)]


@given(st.floats(allow_nan=False))
def test_a_drawn_number_is_assigned_with_all_its_digits(number: float) -> None:
    key, _, text = spaces.assignment("optim.lr", number).partition("=")
    assert (key, float(text)) == ("optim.lr", number)


def test_a_range_takes_the_place_of_the_experiments_own() -> None:
    own: Space = {"optim.lr": LogUniform(1e-4, 1e-2), "model.latent": Choice(2, 5)}
    assert spaces.changed(own, ["optim.lr=0.5", "training.batch_size = 50, 100"], []) == {
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
    "optim.lr=log:1:2:3": "log: should be followed by two numbers, LOW:HIGH",
    "training.batch_size=int:1:2.5": "int: should be followed by two whole numbers, LOW:HIGH",
    "optim.lr=log:1e-2:1e-4": "should ascend, from low to high; 0.01 is not below 0.0001",
    "optim.lr=uniform:0.5:0.5": "should ascend, from low to high; 0.5 is not below 0.5",
    "optim.lr=log:0:1": "should be above 0 on a logarithmic scale",
    "optim.lr=uniform:nan:1": "should have finite ends",
    "optim.lr=log:1:inf": "should have finite ends",
    "optim.lr=0.1,0.2,0.1": "names 0.1 more than once",
    "optim.lr=logg:1:2": "optim.lr='logg:1:2': should be a valid number",
    "optim.lrr=log:1e-4:1e-2": "unknown override 'optim.lrr', did you mean 'lr'?",
    "optim=1,2": "override 'optim' names a group",
    "optim.lr=uniform:-1:1": "optim.lr='-1.0': should be greater than 0",
    "optim.lr=0.1,quick": "optim.lr='quick': should be a valid number",
    "training.batch_size=uniform:50:100": "training.batch_size='75.00000000000001': should be a valid integer",
    "training.batch_size=log:50:100": "should be a valid integer",
    f"training.batch_size=int:1:1{'0' * 400}": "should be",
    "training.kl=closed_form,closed": "training.kl='closed': should be 'closed_form' or 'as_printed'",
    "training.epochs=int:1:5": "is what --epochs is for",
    "data.holdout=0,5000": "decides what trials are judged by",
    "data.name=mnist,cifar10": "decides what trials are judged by",
    "reported.cost=1,2": "unknown override 'reported.cost'",
}


@pytest.mark.parametrize("text", FAULTS, ids=lambda text: text[:40])
def test_each_fault_of_a_space_is_one_line(text: str, small: Experiment) -> None:
    faults: list[str] = []
    found = spaces.changed({}, [text], faults)
    if found:
        with pytest.raises(UsageError) as caught:
            spaces.check(found, small)
        faults += caught.value.faults
    (line,) = faults
    assert line.startswith(f"--space {text.partition('=')[0]}")
    assert FAULTS[text] in line
    assert "\n" not in line


def test_an_empty_space_and_one_of_no_range_are_faults(small: Experiment) -> None:
    with pytest.raises(UsageError, match="there is nothing to search: the experiment names no sweep; give --space"):
        spaces.check({}, small)
    with pytest.raises(UsageError, match=r"optim\.lr=: is empty"):
        spaces.check({"optim.lr": Choice()}, small)
    with pytest.raises(UsageError, match="should be a LogUniform, a Uniform, Integers or a Choice"):
        spaces.check({"optim.lr": (1e-4, 1e-2)}, small)  # type: ignore[dict-item]


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


@pytest.mark.usefixtures("small_file")
@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ([], ["there is nothing to search"]),
        (["--space", "optim.lrr=1,2", "--space", "optim.beta1=uniform:0.9:0.1"], ["did you mean 'lr'", "ascend"]),
        (["--space", "optim.lr", "--space", "optim.lr=int:a:b"], ["should be KEY=log", "two whole numbers"]),
        (["--sampler", "grid", "--space", "optim.lr=log:1e-3:1e-2"], ["is no list; --space optim.lr=VALUE,VALUE"]),
        (["--trials", "0", "--jobs", "65", "--epochs", "x"], ["--trials 0", "--jobs 65", "--epochs x", "nothing to"]),
        (["--seed", "-1", "--space", "a=1", "--space", "optim.lr=0"], ["--seed -1", "override 'a'", "greater than 0"]),
        (["--study", "../../x", "--space", "optim.lr=0.1,0.2"], ["--study '../../x': should be of letters"]),
        (["--study", "x" * 101, "--space", "optim.lr=0.1,0.2"], ["at most 100"]),
        (["--study", "a\nb", "--space", "optim.lr=0.1,0.2"], ["--study 'a\\nb'"]),
        (
            ["--space", "a=1,2", "--space", "model.latent=", "--storage", "mysql://me@h/x", "--trials", "0"],
            ["--trials 0", "--space model.latent=: should be", "override 'a'", "--storage mysql://me@h/x: should be"],
        ),
        (["--finish"], ["no study 'small' to finish"]),
        (["--finish", "--storage", "sqlite:///other.db"], ["no study 'small' to finish"]),
    ],
)
def test_a_refused_command_leaves_nothing_behind(
    options: list[str], faults: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(tmp_path.iterdir())
    assert cli.main(["sweep", "small.py", "--data", "stand-in", *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(faults)
    for line, said in zip(lines, faults, strict=True):
        assert line.startswith("error: ")
        assert said in line
    assert {path for path in tmp_path.iterdir() if path.name != "__pycache__"} == before


def test_a_middle_of_real_numbers_is_not_whole() -> None:
    for each in (Uniform(0, 100), LogUniform(1, 3), Uniform(-4.5, 4.5), LogUniform(0.25, 0.5)):
        low, high, middle = spaces._ends(each)
        assert low < middle < high
        assert not middle.is_integer()
