"""What all commands have in common: help, examples, completion, the version, and refusals without heavy imports."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from support.process import repro

from repro import cli, evaluation
from repro.cli.options import app
from repro.evaluation import measurements

HEAVY = {"torch", "mlflow", "optuna", "pandas", "numpy", "matplotlib"}
QUICK = ["--data", "stand-in", "--threads", "1", "--epochs", "1"]
REFUSED = [
    ["run", "mnist_fc", "--seeds", "1-0"],
    ["run", "mnist_fc", "--dry-run", "--resume"],
    ["run", "mnist_fc", "--set", "optim.lrr=1"],
    ["resume", "abc"],
    ["verify", "abc"],
    ["sync", "abc"],
    ["evaluate", "abc"],
    ["evaluate", "abc", "--measure", "klx", "--only", "3-1"],
    ["compare", "mnist_cf"],
    ["compare", "--json", "--csv"],
    ["check", "curve.csv", "--against", "mnist_cf"],
    ["report", "--update", "--check"],
    ["sweep", "run", "mnist_cf"],
    ["sweep", "run", "mnist_fc", "--space", "optim.lr=log:1"],
    ["sweep", "run", "mnist_fc", "--sampler", "grid"],
    ["sweep", "run", "mnist_fc", "--storage", "mysql://x"],
    ["sweep", "retrain", "mnist_cf"],
]


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield from commands(command, (*words, name)) if hasattr(command, "commands") else [((*words, name), command)]


def fresh(code: str, cwd: Path, **variables: str) -> str:
    """What a new process prints that runs some code."""
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=os.environ | variables, capture_output=True, text=True, check=True
    )
    return process.stdout


def test_every_command_has_two_examples_that_parse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_vae.py").touch()
    root = typer.main.get_command(app)
    found = list(commands(root))
    for words, _ in found:
        assert cli.main([*words, "--help"]) == 0
        _, _, shown = capsys.readouterr().out.partition("Examples:\n")
        lines = [line.split()[3:] for line in shown.splitlines()]
        assert len(lines) == 2, words
        for line in lines:
            assert tuple(line[: len(words)]) == words
            command: Any = root
            for word in words:
                command = command.commands[word]
            command.make_context("", line[len(words) :])
    assert {words[0] for words, _ in found} == set(root.list_commands(None))  # type: ignore[attr-defined, arg-type]


def test_help_lists_the_most_used_commands_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.partition("Commands:")[2].splitlines() if line]
    assert listed[:3] == ["run", "resume", "compare"]


def test_help_lists_the_measurements(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--help"]) == 0
    printed = capsys.readouterr().out
    assert set(evaluation.MEASUREMENTS) == set(measurements.FUNCTIONS)
    assert all(text in printed for text in evaluation.MEASUREMENTS.values())


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["repro-vae", metadata.version("repro-vae")]


def test_wrong_use_is_refused_before_the_slow_imports(tmp_path: Path) -> None:
    code = (
        "import json, sys\n"
        "from repro import cli\n"
        f"codes = [cli.main(line) for line in {REFUSED}]\n"
        f"print(json.dumps([codes, sorted({HEAVY} & set(sys.modules))]))"
    )
    assert json.loads(fresh(code, tmp_path)) == [[2] * len(REFUSED), []]


def test_a_shell_completes_experiments_and_runs_without_the_slow_imports(tmp_path: Path) -> None:
    for name, values in (("ab1", {"experiment": "mnist_fc", "seed": 7}), ("ab2", "damaged"), ("cd3", {})):
        folder = tmp_path / "mlruns" / "runs" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(values))
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print(sorted({HEAVY} & set(sys.modules))))\n"
        "import repro.cli\n"
        "repro.cli.options.app(prog_name='repro')"
    )
    for typed, offered in (
        ("repro run mnist_c", ["mnist_conv", "mnist_conv_lr_1e3", "mnist_conv_pytorch_adam"]),
        ("repro resume a", ["ab1"]),
        ("repro sweep re", ["retrain"]),
    ):
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
        assert fresh(code, tmp_path, _REPRO_COMPLETE="complete_bash", **words).split() == [*offered, "[]"]


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(tmp_path: Path) -> None:
    process = repro("run", "mnist_fc", *QUICK, "--seeds", "0-2", "--jobs", "2", "--dry-run", "--json", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    said = json.loads(process.stdout)
    assert (said["seeds"], said["epochs"], said["steps"]) == ([0, 1, 2], 1, 14)
    assert said["seconds"] == pytest.approx(2 * said["epoch_seconds"]), "three runs, two at a time"
    assert said["settings"]["engine"] in ("fast", "plain")
    assert "nothing was trained" in process.stderr
    sweep = repro("sweep", "run", "mnist_fc", *QUICK, "--trials", "7", "--dry-run", cwd=tmp_path)
    assert sweep.returncode == 0, sweep.stderr
    assert "7 left" in sweep.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_quiet_run_prints_nothing(tmp_path: Path) -> None:
    process = repro("run", "mnist_fc", *QUICK, "--seed", "1", "-q", "--json", cwd=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    assert json.loads(process.stdout)["status"] == "FINISHED"
    again = repro("resume", json.loads(process.stdout)["run_id"], "-q", cwd=tmp_path)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


LONG = "a" * 300


@pytest.mark.parametrize(
    "words",
    [
        ["run", "mnist_fc", "--summary", LONG],
        ["run", "mnist_fc", "--summary", f"{LONG}/x"],
        ["run", f"{LONG}.py"],
        ["verify", LONG],
        ["sweep", "status", "--storage", f"sqlite:///{LONG}"],
    ],
)
def test_a_name_that_is_too_long_for_the_disk_is_wrong_use(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "File name too long" in said
    assert "unexpected" not in said
    assert len(said) < 400


@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "run", "mnist_fc", "--trials", "\uff11"],
        ["run", "mnist_fc", "--seed", "\u0663"],
        ["run", "mnist_fc", "--seeds", "\uff10-4"],
        ["run", "mnist_fc", "--set", "optim.lr=\uff11e-3"],
        ["sweep", "run", "mnist_fc", "--space", "optim.lr=log:\uff11e-4:1"],
        ["sweep", "run", "mnist_fc", "--space", "model.latent=\uff12,\uff13"],
    ],
)
def test_digits_of_other_scripts_are_no_numbers(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main([*words, "--dry-run", "--data", "stand-in"]) == 2
    assert "should be" in capsys.readouterr().err.lower()
    assert not (tmp_path / "mlruns").exists()


def test_the_details_of_an_unexpected_error_hold_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail() -> None:
        raise ValueError("postgresql://me:hidden@word@host/x and postgresql://host/x?password=hidden-too")

    monkeypatch.setattr("repro.spec.registry.names", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cli.main(["list"]) == 1
    (details,) = tmp_path.glob("repro-error-*.txt")
    said = capsys.readouterr().err + details.read_text()
    assert "Traceback" in details.read_text()
    assert "hidden" not in said
