"""Command lines of any words, over every command and option of the parser: one message, a known code, nothing written.

By default the same three hundred command lines are tried each time; with REPRO_FUZZ=3000 so many others.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.process import repro

from repro import data
from repro.cli.options import app
from repro.errors import DataError, ReproError

ASKED = os.environ.get("REPRO_FUZZ", "")
CODES = {0, 1, 2, 3, 4, 5}
SECRET = "geheim"
WRONG = [
    "",
    " ",
    "-",
    "--",
    "-1",
    "0",
    "1",
    "2",
    "1.5",
    "1e400",
    "nan",
    "inf",
    "1_0",
    "\uff11",
    "\u0663",
    "9" * 30,
    "9" * 5000,
    "x" * 300,
    "x" * 5000,
    "../..",
    "/",
    ".",
    "/dev/null",
    "/dev/full",
    "nowhere/x",
    "no.py",
    "own.py",
    "own.py/x",
    "table.csv",
    "é\u0301",
    "\u202e",
    "\x1b[31m",
    "a\nb",
    "\U0001f4a5",
    "'",
    '"',
    "%",
    "%s",
    "{}",
    "[]",
    "null",
    "true",
    "=",
    "==1",
    "a=b",
    "optim.lr=x",
    "optim.lr=1e-3",
    "model=1",
    "model.encoder=[",
    "model.encoder=" + "[" * 3000,
    "training.epochs=9",
    "optim.lr=log:1:0",
    "optim.lr=log:1e-4:1e-2",
    "a=int:1:2",
    "1-0",
    "0-4",
    "0-99999999999999999999",
    "1,,2",
    "mnist_fc",
    "mnist_cf",
    "mnist_fc,optim.lr=x",
    "mnist_fc,",
    "all",
    "kl",
    "evaluation,kl",
    f"postgresql+psycopg://u:{SECRET}@127.0.0.1:notaport/d",
    f"postgresql+psycopg://u:{SECRET}@127.0.0.1:999999/d",
    f"postgresql://u:{SECRET}@h:-1/d",
    f"postgresql+psycopg://u:{SECRET}@@/d",
    f"mysql://u:{SECRET}@h/d",
    f"http://u:{SECRET}@127.0.0.1:1",
    "sqlite:///no/where.db",
    "sqlite:////dev/null",
    "sqlite://",
    "://",
    "sqlite:///own.py",
    f"x://u@h?password={SECRET}",
]


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield from commands(command, (*words, name)) if hasattr(command, "commands") else [((*words, name), command)]


COMMANDS = sorted(commands(typer.main.get_command(app)))
RIGHT = {
    "data": "real", "device": "cpu", "seeds": "0-3", "assignments": "optim.lr=1e-3", "summary": "out.json",
    "space": "optim.lr=log:1e-4:1e-2", "sampler": "random", "pruner": "none", "storage": "sqlite:///studies.db",
    "state": "killed", "per": "pixel", "against": "mnist_fc", "measure": "kl", "only": "0-9", "precision": "mixed",
    "curve": "table.csv", "out": "out.zip", "name": "own.py", "names": "mnist_fc", "results": ".", "data_dir": ".",
}  # fmt: skip
"""A value that fits, by parameter; for others it is 1."""
VALUES = st.sampled_from(WRONG) | st.integers(-(2**70), 2**70).map(str)
VALUES |= st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    words, command = draw(st.sampled_from(COMMANDS))
    options, rest = list[str](), list[str]()
    wrong = draw(st.sampled_from([0, 0.1, 0.3, 1]))
    for param in command.params:
        is_argument = param.param_type_name == "argument"
        if draw(st.floats(0, 1)) < (0.1 if is_argument else 0.7):
            continue
        value = draw(VALUES) if draw(st.floats(0, 1)) < wrong else RIGHT.get(param.name, "1")
        if is_argument:
            rest.append(value)
        else:
            has_value = not param.is_flag and draw(st.floats(0, 1)) > wrong / 4
            options += [draw(st.sampled_from([*param.opts, *param.secondary_opts])), *([value] * has_value)]
    return [*words, *draw(st.permutations([options, rest]).map(lambda two: two[0] + two[1]))]


OWN = """
from dataclasses import replace
from repro.experiments.mnist_fc import mnist_fc
from repro.registry import register

@register
def own():
    return replace(mnist_fc(), reported=())
"""


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def nothing(*_: object) -> Any:
    raise DataError("no data")


def no_peer(*_: object) -> Any:
    raise ReproError("no peer")


def fault_of(line: list[str]) -> str:
    """Run a command line in a folder of its own; return what is wrong with how it ends, "" if nothing is.

    Training and the timing of steps are left out: no data set is found, and no other program is started.
    """
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        folder = Path(directory)
        patch.setattr(tempfile, "tempdir", directory)
        patch.setattr(data, "load", nothing)
        patch.setattr("repro.benchmarks.driver.available", no_peer)
        (folder / "own.py").write_text(OWN)
        (folder / "table.csv").write_text("epoch,cost\n1,200\n")
        before = contents(folder)
        process = repro(*line, cwd=folder)
        said, refused = process.stdout + process.stderr, process.returncode in (1, 2, 3)
        errors = "".join("x" if row.startswith("error: ") else " " for row in process.stderr.splitlines()).split()
        rules = {
            f"the exit code is {process.returncode}": process.returncode in range(6),
            "it is an unexpected error": "error: unexpected " not in said and "Traceback" not in said,
            "it prints a password": SECRET not in said,
            "it prints terminal codes": not {"\x1b", "\u202e"} & set(said),
            f"it prints {len(errors)} messages": not refused or len(errors) == 1 or "Usage: " in said,
            "it leaves files": not refused or contents(folder) == before,
        }
        return "".join(f"{fault}: {said[-500:]}" for fault, kept in rules.items() if not kept)


@settings(
    max_examples=int(ASKED or 300), derandomize=not ASKED, suppress_health_check=list(HealthCheck), print_blob=True
)
@given(lines())
def test_any_command_line_ends_in_a_known_code_with_one_message(line: list[str]) -> None:
    assert not fault_of(line)
