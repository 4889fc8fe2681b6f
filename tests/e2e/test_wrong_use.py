"""What is typed wrong, or cannot be reached, gets a sentence and an exit code."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.process import ROOT, environment, repro

WRONG = [
    (["run", "mnist_cf"], 2, ["unknown experiment 'mnist_cf', did you mean 'mnist_fc'?"]),
    (["run", "none.py"], 2, ["'none.py' does not exist"]),
    (["run"], 2, ["Missing argument"]),
    (["runn"], 2, ["No such command 'runn'"]),
    (["run", "mnist_fc", "--sed", "1"], 2, ["No such option"]),
    (["run", "mnist_fc", "--device", "tpu"], 2, ["tpu"]),
    (["run", "mnist_fc", "--seed", "x"], 2, ["Invalid value for '--seed'", "integer"]),
    (["run", "mnist_fc", "--seed", "-1"], 2, ["Invalid value for '--seed'"]),
    (["run", "mnist_fc", "--threads", "0"], 2, ["Invalid value for '--threads'"]),
    (["run", "mnist_fc", "--epochs", "none"], 2, ["Invalid value for '--epochs'", "integer"]),
    (
        ["run", "mnist_fc", "--summary", "no/where.json", "--set", "model.latent=0", "--set", "optim.lrr=1"],
        2,
        ["--summary no/where.json", "model.latent='0'", "'optim.lrr', did you mean 'lr'"],
    ),
    (["run", "mnist_fc", "--set", "model.decoder.2.units=3"], 2, ["model.decoder.2 dense(units=3): gives 3", "784"]),
    (["run", "mnist_fc", "--set", "training.batch_size=5000", "--data", "stand-in"], 2, ["training.batch_size=5000"]),
    (
        ["run", "mnist_fc", "--set", "model.latent=1000000", "--set", "model.decoder.0.units=1000000"],
        2,
        ["the model needs 16.0 TB of memory at least, for 1,001,", "are free"],
    ),
    (["run", "mnist_fc", "--data", "real"], 3, ["REPRO_DATA_DIR"]),
    (["run", "mnist_fc", "--data-dir", "nowhere"], 3, ["nowhere"]),
    (["run", "mnist_fc", "--data-dir", "."], 3, ["not in the data directory", "train-images-idx3-ubyte"]),
    (["sweep", "run", "mnist_fc", "--data-dir", "."], 3, ["not in the data directory"]),
    (["run", "mnist_fc", "--data", "stand-in", "--data-dir", "."], 2, ["--data-dir .: should be one of the two"]),
    (["run", "mnist_fc", "--summary", "no/where.json"], 2, ["--summary no/where.json"]),
    (["ui"], 1, ["no runs yet"]),
    (["compare"], 1, ["no runs yet"]),
    (["show", "mnist"], 2, ["did you mean"]),
]


@pytest.mark.parametrize(("arguments", "code", "said"), WRONG, ids=[" ".join(case[0])[:60] for case in WRONG])
def test_wrong_use_gets_a_sentence_and_a_code(tmp_path: Path, arguments: list[str], code: int, said: list[str]) -> None:
    process = repro(*arguments, cwd=tmp_path)
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr + process.stdout
    for part in said:
        assert part in process.stderr
    assert not (tmp_path / "mlruns").exists(), "nothing half-made is left"


def test_a_store_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mlruns").write_text("not a directory")
    process = repro("run", "mnist_fc", "--epochs", "1", "--data", "stand-in", cwd=tmp_path)
    assert process.returncode == 1
    assert "the tracking store" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "postgresql://u:secret@127.0.0.1:1/x", "nonsense://u:secret@x"])
def test_a_store_that_is_not_there_is_one_sentence_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    process = repro("run", "mnist_fc", "--epochs", "1", "--data", "stand-in", cwd=tmp_path)
    assert process.returncode == 1
    assert "unset it to use mlruns here" in process.stderr
    assert "Traceback" not in process.stderr
    assert "unexpected" not in process.stderr
    assert "secret" not in process.stderr


def test_help_and_list_need_no_heavy_import() -> None:
    code = "import sys; from repro import cli; cli.main(['list']); "
    code += "print(sorted({'torch', 'mlflow', 'pandas', 'numpy'} & set(sys.modules)))"
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert process.stdout.splitlines()[-1] == "[]"
