"""The real command on a terminal of 80 and of 100 columns: no line is too long, no word or number is broken."""

import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from support.process import ROOT, environment, repro

COMPARE = ["compare", "--results", str(ROOT / "results")]


def on_a_terminal(columns: int, *arguments: str, cwd: Path, **variables: str) -> str:
    """Return what the command prints on a terminal of that width."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (50, columns))
    command, env = [sys.executable, "-m", "repro", *arguments], environment() | {"TERM": "xterm"} | variables
    env.pop("COLUMNS", None)
    printed = b""
    with subprocess.Popen(command, cwd=cwd, env=env, stdout=theirs, stdin=subprocess.DEVNULL) as process:
        os.close(theirs)
        while True:
            try:
                printed += os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
        assert process.wait(240) == 0
    os.close(ours)
    return printed.decode()


@pytest.mark.parametrize(("command", "columns"), [(COMPARE, 80), (COMPARE, 100), (["list"], 80)])
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
