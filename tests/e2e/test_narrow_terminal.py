"""The real command on a terminal: no line is too long, no word or number is broken, and what it does is named."""

import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from support.process import ROOT, environment, repro

COMPARE = ["compare", "--results", str(ROOT / "results")]


PHASES = (
    "loading PyTorch", "reading the data", "loading MLflow", "opening the tracking store", "describing the run",
    "epoch 1/3", "epoch 3/3", "saving the weights", "measuring the test images", "drawing pictures",
    "saving the decoder", "delivering to the tracking store", "FINISHED",
)  # fmt: skip


def on_a_terminal(columns: int, *arguments: str, cwd: Path, stderr: bool = False, **variables: str) -> str:
    """Return what the command prints on a terminal of that width: its stdout, and with `stderr` its stderr too."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (50, columns))
    command, env = [sys.executable, "-m", "repro", *arguments], environment() | {"TERM": "xterm"} | variables
    env.pop("COLUMNS", None)
    printed = b""
    streams = {"stdin": subprocess.DEVNULL, "stdout": theirs, "stderr": theirs if stderr else None}
    with subprocess.Popen(command, cwd=cwd, env=env, **streams) as process:
        os.close(theirs)
        while True:
            try:
                printed += os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
        assert process.wait(240) == 0
    os.close(ours)
    return printed.decode()


@pytest.mark.parametrize(
    ("command", "columns"),
    [(COMPARE, 80), (COMPARE, 100), (["list"], 80), (["show", "cifar_conv"], 80)],
)
def test_no_cell_is_broken(command: list[str], columns: int, tmp_path: Path) -> None:
    piped = repro(*command, cwd=tmp_path).stdout
    assert "\x1b" not in piped
    narrow = on_a_terminal(columns, *command, cwd=tmp_path, NO_COLOR="1")
    assert "\x1b" not in narrow
    lines = narrow.splitlines()
    assert max(map(len, lines)) <= columns
    shown = " ".join(line for line in lines if not line.startswith("left out at "))
    assert set(shown.split()) <= set(piped.split()), "part of a word"


def test_a_terminal_without_no_color_has_bold_heads(tmp_path: Path) -> None:
    assert "\x1b[1mname" in on_a_terminal(100, "list", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("small_file")
def test_a_run_names_what_it_does_from_the_imports_to_the_end(tmp_path: Path) -> None:
    shown = on_a_terminal(80, "run", "small.py", "--data", "stand-in", "--threads", "1", cwd=tmp_path, stderr=True)
    places = [shown.find(phase) for phase in PHASES]
    assert -1 not in places, shown
    assert places == sorted(places), shown
    assert on_a_terminal(80, "sync", "-q", cwd=tmp_path, stderr=True) == ""
    assert "delivering run 1 of 1" in on_a_terminal(80, "sync", cwd=tmp_path, stderr=True)
