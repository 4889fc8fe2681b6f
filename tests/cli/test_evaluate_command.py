"""The `evaluate` command on a small finished run: what it prints and logs, and every error in a sentence."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import save_file
from support.process import client, in_a_process, started, wait_for

from repro import cli, names
from repro.measurement import Measurement, Row
from repro.model import build
from repro.runs import load
from repro.spec import Experiment
from repro.tracking import artifacts, layout, reader

QUICK = ["--samples", "50", "--draws", "4", "--images", "20", "--threads", "1"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A small finished run, evaluated with --json, and what that printed, made where no store of this process is."""
    folder = tmp_path_factory.mktemp("done")
    options = ["--epochs", "1", "--data", "stand-in", "--threads", "1"]
    assert in_a_process("run", "mnist_fc", *options, cwd=folder).returncode == 0
    (run,) = (folder / "mlruns" / "runs").iterdir()
    process = in_a_process("evaluate", run.name[:6], *QUICK, "--only", "200-299", "--json", cwd=folder)
    assert process.returncode == 0, process.stderr
    return folder, process.stdout


@pytest.fixture
def here(done: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[MlflowClient, str]:
    """A copy of that run in the present directory: its store and its id."""
    shutil.copytree(done[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    run_id = next(Path("mlruns/runs").iterdir()).name
    reader.run(run_id)  # points the moved store at its artifacts
    return client(Path.cwd()), run_id


def test_a_measurement_is_logged_and_replaced(
    done: tuple[Path, str], here: tuple[MlflowClient, str], capsys: pytest.CaptureFixture[str]
) -> None:
    store, run_id = here
    printed = [Row(**row) for row in json.loads(done[1])["measurements"]["evaluation"]]
    assert artifacts.read_measurement(run_id, "evaluation") == printed
    record = reader.run(run_id)
    assert artifacts.measurements_of(record) == ["evaluation"]
    assert record.tags[names.MEASUREMENT + "evaluation"].endswith("--only 200-299 --json")
    values = {(row.quantity, row.group): row.value for row in printed}
    for metric in names.MEASUREMENT_METRICS:
        assert record.metrics[metric] == values[metric, ""]
    assert record.metrics[names.ENTROPY_FLOOR] == values["entropy_floor", "train"]
    assert len({point.value for point in layout.points(store, run_id, names.ENTROPY_FLOOR)}) == 1
    assert cli.main(["evaluate", run_id, *QUICK]) == 0
    assert "not a likelihood of binary data" in capsys.readouterr().out
    again = artifacts.read_measurement(run_id, "evaluation")
    assert again is not None
    without_only = [row for row in printed if row.group not in ("named images", "other images", "all")]
    assert [(row.quantity, row.unit, row.group, row.x) for row in again] == [
        (row.quantity, row.unit, row.group, row.x) for row in without_only
    ]
    # another process may round a float32 product in another way
    assert [row.value for row in again] == pytest.approx([row.value for row in without_only], rel=1e-6, nan_ok=True)
    pixels = torch.zeros((2, 2, 1), dtype=torch.uint8).numpy()
    artifacts.log_measurement(record, "other", Measurement([Row("x", 1.5, "", x=0.1)], {"picture": pixels}), "command")
    assert artifacts.read_measurement(run_id, "other") == [Row("x", 1.5, "", x=0.1)]
    assert "studies/picture.png" in [item.path for item in store.list_artifacts(run_id, "studies")]
    assert artifacts.read_measurement(run_id, "none") is None


@pytest.mark.slow
def test_an_interrupt_logs_nothing(here: tuple[MlflowClient, str]) -> None:
    store, run_id = here
    store.delete_tag(run_id, names.MEASUREMENT + "evaluation")
    process = started("evaluate", run_id, *QUICK[2:], "--samples", "9000000", cwd=Path.cwd())
    wait_for("log p(x), 9,000,000 draws each", Path.cwd())
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "Traceback" not in Path("output.txt").read_text()
    assert artifacts.measurements_of(reader.run(run_id)) == []


def test_a_loaded_run_is_the_one_that_was_trained(here: tuple[MlflowClient, str]) -> None:
    run = load.load(here[1], None, 1)
    trainer = run.trainer()
    trainer.epoch(lambda: None)
    assert trainer.digest() == run.record.tags[names.WEIGHTS_SHA256]
    assert trainer.test().cost == run.record.metrics[names.TEST_NEG_ELBO]


def artifact(store: MlflowClient, run_id: str, name: str) -> Path:
    return Path(store.get_run(run_id).info.artifact_uri.removeprefix("file://")) / name


def other_spec(spec: Experiment) -> str:
    return json.dumps(spec.to_dict() | {"novelty": 1})


def other_weights(store: MlflowClient, run_id: str, small: Experiment) -> None:
    save_file(build(small, 0).state_dict(), artifact(store, run_id, names.WEIGHTS_FILE))


FAULTS = {
    "unknown": (["0123"], 2, "'0123' is no run in"),
    "unknown to the store": (["0" * 32], 1, "not found"),
    "unknown measurement": (["RUN", "--measure", "evalution"], 2, "--measure evalution: is none of"),
    "unknown, by the former option": (["RUN", "--study", "evalution"], 2, "did you mean 'evaluation'"),
    "range": (["RUN", *QUICK, "--only", "0-1"], 2, "--only 0-1: training images have indices from"),
    "unfinished": (["RUN"], 2, "has not finished (KILLED); go on with it: python -m repro resume"),
    "parent": (["RUN"], 2, "is the parent of several seeds and has no model"),
    "spec": (["RUN"], 2, "is of another version of this program, with another spec: novelty"),
    "spec damaged": (["RUN"], 1, "artifact spec.json of run RUN is damaged"),
    "weights missing": (["RUN"], 1, "artifact weights.safetensors of run RUN cannot be read"),
    "weights damaged": (["RUN"], 1, "artifact weights.safetensors of run RUN is damaged"),
    "weights others": (["RUN"], 1, "is damaged: its SHA-256 is not the recorded one"),
    "data": (["RUN"], 2, "was trained on other data (fingerprint 000000000000, here is"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_sentence(
    name: str, here: tuple[MlflowClient, str], small: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    (store, run_id), (arguments, code, said) = here, FAULTS[name]
    match name:
        case "unfinished":
            store.set_terminated(run_id, "KILLED")
        case "parent":
            store.set_tag(run_id, names.KIND, names.KIND_SEEDS)
        case "spec":
            artifact(store, run_id, names.SPEC_FILE).write_text(other_spec(small))
        case "spec damaged":
            artifact(store, run_id, names.SPEC_FILE).write_text("{")
        case "weights missing":
            artifact(store, run_id, names.WEIGHTS_FILE).unlink()
        case "weights damaged":
            artifact(store, run_id, names.WEIGHTS_FILE).write_bytes(b"\0" * 100)
        case "weights others":
            other_weights(store, run_id, small)
        case "data":
            store.set_tag(run_id, names.DATA_FINGERPRINT, "0" * 64)
    assert cli.main(["evaluate", *(argument.replace("RUN", run_id) for argument in arguments)]) == code
    errors = capsys.readouterr().err
    assert said.replace("RUN", run_id) in errors
    assert errors.count("\n") == errors.count("error: ") == 1, errors


def test_a_damaged_measurement_is_one_sentence(here: tuple[MlflowClient, str]) -> None:
    store, run_id = here
    artifact(store, run_id, "studies/evaluation.csv").write_text("quantity,value\nx,y\n")
    with pytest.raises(artifacts.StoreError, match=r"evaluation of run .* is missing or damaged: its columns"):
        artifacts.read_measurement(run_id, "evaluation")
