"""What docs/security.md promises and no other file tests: what is executed, and where passwords do not get to."""

import ast
import tempfile
from pathlib import Path

import psutil
import pytest
from support.process import ROOT, repro

from repro import cli
from repro.runs import run_dir
from repro.runs.parallel import Channel, run_all
from repro.tracking.writer import RunWriter

SECRET = "geheim"
ADDRESS = f"http://me:{SECRET}@127.0.0.1:1"
EXECUTE = {"eval", "exec", "torch.load", "pickle.load", "pickle.loads", "joblib.load", "yaml.load", "os.system"}


def test_a_file_is_executed_only_when_it_is_named_by_its_path(tmp_path: Path) -> None:
    for name in ("mnist_fc.py", "mnist_fc", "small.py"):
        (tmp_path / name).write_text("raise SystemExit('executed')")
    assert repro("show", "mnist_fc", cwd=tmp_path).returncode == 0
    assert repro("list", cwd=tmp_path).returncode == 0
    named = repro("show", "./mnist_fc.py", cwd=tmp_path)
    assert (named.returncode, "executed" in named.stderr) == (2, True)


def test_nothing_that_is_read_is_evaluated_or_unpickled() -> None:
    """But for CIFAR-10's own files, whose reader has tests in tests/data/test_readers.py."""
    for file in [file for top in ("repro", "analysis", "benchmarks") for file in (ROOT / top).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in EXECUTE, f"{file}: {called}"
            shell = [key.arg for key in node.keywords if key.arg in ("shell", "allow_pickle")] if called else []
            assert not shell, f"{file}: {called}"


def test_the_file_of_an_unexpected_error_has_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError(f"cannot connect to {ADDRESS} with password={SECRET}")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cli, "app", fails)
    assert cli.main(["list"]) == 1
    (file,) = tmp_path.glob("repro-error-*.txt")
    assert "cannot connect to http://me:***@" in file.read_text()
    assert SECRET not in file.read_text() + capsys.readouterr().err


def test_a_runs_records_have_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ADDRESS)
    RunWriter("a" * 32, run_dir.path("a" * 32)).begin("mnist_fc", {})
    written = [path.read_text() for path in tmp_path.rglob("*.json*")]
    assert any("me:***@127.0.0.1" in text for text in written)
    assert not any(SECRET in text for text in written)


def say_title(task: str, channel: Channel[str]) -> None:
    channel.send(" ".join(psutil.Process().cmdline()))


@pytest.mark.slow
def test_a_childs_process_title_has_no_password() -> None:
    said: list[str] = []
    run_all(say_title, [ADDRESS], 1, lambda *_: None, lambda _task, title: said.append(title))
    (title,) = said
    assert "spawn" in title
    assert SECRET not in title
