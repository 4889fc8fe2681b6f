"""The real command, as a process of its own, in an empty directory, offline, on the stand-in data."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import mlflow.pytorch
import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from support.process import ROOT, client, environment, fetched, free_port, in_a_process, repro

from repro import data, names
from repro.spec import Data
from repro.tracking import layout
from repro.training import checkpoint

PARTS = (names.RECONSTRUCTION, names.KL)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object], str]:
    """One finished run of the first setup, shortened: its directory, its summary, and what it printed."""
    folder = tmp_path_factory.mktemp("done")
    options = ["--epochs", "3", "--seed", "7", "--threads", "1", "--data", "stand-in", "--summary", "summary.json"]
    process = in_a_process("run", "mnist_fc", *options, cwd=folder)
    assert process.returncode == 0, process.stderr
    return folder, json.loads((folder / "summary.json").read_text()), process.stdout


def test_a_run_says_what_it_is_and_what_it_came_to(done: tuple[Path, dict[str, object], str]) -> None:
    _, summary, printed = done
    assert "STAND-IN DATA" in printed
    assert "reported cost 112.54 nats at epoch 10 and 96.21 nats at epoch 100" in printed
    assert sum(line.startswith("epoch ") for line in printed.splitlines()) == 3
    assert "NOT COMPARABLE" in printed
    assert "\x1b" not in printed, "no terminal codes in a pipe"
    assert summary["status"] == "FINISHED"
    assert (summary["experiment"], summary["seed"], summary["epochs"]) == ("mnist_fc", 7, 3)
    assert summary["comparable"] is False
    assert "stand-in" in str(summary["reasons"])
    assert 100 < float(str(summary["test_neg_elbo"])) < 544
    assert summary["data"]["canonical"] is False  # type: ignore[index]


def test_a_run_says_what_to_do_next_and_where_the_weights_are(done: tuple[Path, dict[str, object], str]) -> None:
    folder, summary, printed = done
    *_, compare, look, draw, weights = printed.splitlines()
    assert compare == "compare: python -m repro compare mnist_fc"
    assert look == "look:    python -m repro ui"
    assert draw == f"draw:    python -m repro evaluate {str(summary['run_id'])[:8]} --measure latents"
    assert (folder / weights.removeprefix("weights: ")).name == names.WEIGHTS_FILE
    assert (folder / weights.removeprefix("weights: ")).is_file()
    assert "epoch 3:" not in printed, "on the stand-in nothing is compared"


@pytest.mark.parametrize("committed", [True, False])
def test_a_short_look_at_other_images_is_put_beside_the_published_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    other = replace(data.load(Data("mnist"), "stand-in"), status="unverified")
    monkeypatch.setattr(data, "load", lambda *_: other)
    if committed:
        (tmp_path / "results").symlink_to(ROOT / "results")
    process = repro("run", "mnist_fc", "--epochs", "2", "--threads", "1", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    first, last = [line for line in process.stdout.splitlines() if "the published run had" in line]
    assert first.startswith("epoch 1: ")
    assert "the published run had 198.49 ± 0.17 there" in first
    assert last.startswith("  epoch 2: ")
    assert ("of our seeds" in first, "of our seeds" in last) == (committed, committed)


def test_a_run_is_tracked_in_full(done: tuple[Path, dict[str, object], str]) -> None:
    folder, summary, _ = done
    store = client(folder)
    run = store.get_run(str(summary["run_id"]))
    assert run.info.status == "FINISHED"
    assert run.data.params["optim.lr"] == "0.001"
    assert run.data.params[names.SEED] == "7"
    assert run.data.params["training.epochs"] == "3"
    assert (
        run.data.params[names.ARCHITECTURE] == "dense 500, dense 500 → 20 → dense 500, dense 500, dense 784; softplus"
    )
    assert len(run.data.params) == 12
    shown = [tag for tag in run.data.tags if not tag.startswith("mlflow.")]
    assert (len(shown) <= 12, shown[0]) == (True, names.NOT_COMPARABLE_BECAUSE)
    params, tags = layout.unpack(run.data)
    assert params["optim.beta2"] == "0.999"
    for tag in (names.SIGNATURE, "mlflow.source.git.commit", "repro.version.torch", "repro.cpu", names.WEIGHTS_SHA256):
        assert tags[tag]
    assert tags["repro.command"].startswith("python -m repro run mnist_fc --epochs 3 --seed 7")
    assert run.data.tags[names.DATA_STATUS] == "stand-in"
    assert run.inputs.dataset_inputs[0].dataset.name == "mnist"
    assert str(summary["data"]["fingerprint"]).startswith(run.inputs.dataset_inputs[0].dataset.digest)  # type: ignore[index]
    assert set(run.data.metrics) == {names.SHOWN_METRICS[name] for name in names.METRICS}, (
        "the glossary has every metric, and every metric is logged"
    )
    history = layout.points(store, run.info.run_id, names.COST)
    assert [point.step for point in history] == [1, 2, 3]
    assert history[-1].value == summary["cost"]
    assert history[0].value > history[-1].value
    row = {name: layout.points(store, run.info.run_id, name)[1].value for name in (names.COST, *PARTS)}
    assert row[names.COST] == pytest.approx(sum(row[name] for name in PARTS))


def test_a_run_leaves_its_artifacts(done: tuple[Path, dict[str, object], str]) -> None:
    folder, summary, _ = done
    store, run_id = client(folder), str(summary["run_id"])
    found = {item.path for item in store.list_artifacts(run_id)}
    expected = {"spec.json", "weights.safetensors", "generator", "images", names.BY_EPOCH}
    assert expected | {"cost_curve.png", "samples.png", "reconstructions.png"} == found
    pictures = [item.path for item in store.list_artifacts(run_id, "images") if item.path.endswith(".png")]
    shown = {path.partition("+")[0] for path in pictures}
    assert shown == {f"images/after_training~{name}" for name in ("cost_curve", "samples", "reconstructions")}
    assert len(pictures) == 3, "one of each, of the final weights, is among the charts"
    by_epoch = [item.path for item in store.list_artifacts(run_id, names.BY_EPOCH)]
    assert len(by_epoch) == 4, "of the first and of the last epoch"
    weights = [path for path in (folder / "mlruns").rglob("*.safetensors") if run_id in path.parts]
    assert len(weights) == 1, "a finished run keeps its weights once"
    everything = sum(path.stat().st_size for path in (folder / "mlruns").rglob("*") if path.is_file())
    assert everything < 15e6


def test_the_logged_model_loads_and_draws(done: tuple[Path, dict[str, object], str]) -> None:
    folder, summary, _ = done
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    generator = mlflow.pyfunc.load_model(f"runs:/{summary['run_id']}/generator")
    z = torch.randn(5, 20)
    images = np.asarray(generator.predict(z.numpy()))
    assert images.shape == (5, 1, 28, 28)
    (file,) = (folder / "mlruns").rglob(names.WEIGHTS_FILE)
    hidden, weights = z, load_file(file)
    for layer in ("decoder.0", "decoder.2"):
        hidden = torch.nn.functional.softplus(hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
    logits = hidden @ weights["outputs.0.0.weight"].T + weights["outputs.0.0.bias"]
    np.testing.assert_allclose(images.reshape(5, 784), torch.sigmoid(logits).numpy(), atol=1e-5)


def signature_of(folder: Path, summary: dict[str, object]) -> str:
    return str(client(folder).get_run(str(summary["run_id"])).data.tags[names.SIGNATURE])


def test_compare_lists_runs_and_draws_them(done: tuple[Path, dict[str, object], str]) -> None:
    folder, summary, _ = done
    process = repro("compare", "mnist_fc", "--figures", "figures", cwd=folder)
    assert process.returncode == 0, process.stderr
    assert str(summary["run_id"])[:8] in process.stdout
    assert "stand-in" in process.stdout
    assert not list((folder / "figures").iterdir()), "stand-ins are not drawn over the reported curve"


@pytest.mark.parametrize("command", ["verify", "evaluate"])
def test_a_named_directory_is_a_demand_also_for_a_run_on_the_stand_in(
    done: tuple[Path, dict[str, object], str], tmp_path: Path, command: str
) -> None:
    folder, summary, _ = done
    process = repro(command, str(summary["run_id"]), "--data-dir", str(tmp_path), cwd=folder)
    assert (process.returncode, f"not in the data directory {tmp_path}" in process.stderr) == (3, True)


def test_a_moved_project_still_finds_its_artifacts(
    done: tuple[Path, dict[str, object], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repro.tracking.store import open_client  # noqa: PLC0415 - it sets MLflow's environment

    folder, summary, _ = done
    moved = tmp_path / "elsewhere"
    subprocess.run(["cp", "-r", folder, moved], check=True)
    monkeypatch.chdir(moved)
    run = open_client().get_run(str(summary["run_id"]))
    assert run.info.artifact_uri.startswith(f"{moved.as_uri()}/mlruns/artifacts/")
    assert open_client().list_artifacts(run.info.run_id)


def test_the_ui_serves_the_runs_on_loopback_only(done: tuple[Path, dict[str, object], str]) -> None:
    port = free_port()
    command = [sys.executable, "-m", "repro", "ui", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=done[0], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            start = f"http://127.0.0.1:{port}/start"
            assert start in str(server.stdout.readline())  # type: ignore[union-attr]
            assert "mnist_fc" in fetched(start, seconds=90)
            for path in ("/start", "/", "/api/2.0/mlflow/experiments/search?max_results=1"):
                request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": "evil.example"})
                with pytest.raises(urllib.error.HTTPError, match="403"):
                    urllib.request.urlopen(request, timeout=30)
            connections = psutil.Process(server.pid).net_connections("inet")
            assert {each.laddr.ip for each in connections if each.status == "LISTEN"} == {"127.0.0.1"}
            again = repro("ui", "--port", str(port), cwd=done[0])
            assert (again.returncode, "cannot be used" in again.stderr) == (1, True)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
    assert server.returncode == 130


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_an_interrupted_run_is_marked_killed_with_its_checkpoint(tmp_path: Path, number: int, code: int) -> None:
    options = ["--epochs", "9999", "--threads", "1", "--data", "stand-in", "--summary", "summary.json"]
    command = [sys.executable, "-m", "repro", "run", "mnist_fc", *options]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not str(process.stdout.readline()).startswith("epoch    2"):  # type: ignore[union-attr]
            assert process.poll() is None
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "KILLED"
    assert client(tmp_path).get_run(summary["run_id"]).info.status == "KILLED"
    state, faults = checkpoint.newest(
        tmp_path / "mlruns/runs" / summary["run_id"] / "checkpoints", signature_of(tmp_path, summary), 0
    )
    assert state is not None
    assert (state.epoch, faults) == (summary["epochs"], [])
    assert [row["cost"] for row in state.history][-1] == summary["cost"]


def test_a_cost_that_is_not_finite_fails_the_run(tmp_path: Path) -> None:
    options = ["--set", "optim.lr=500", "--data", "stand-in", "--summary", "summary.json"]
    process = repro("run", "mnist_conv", "--epochs", "40", *options, cwd=tmp_path)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "FAILED"
    assert "not finite at epoch" in summary["error"]
    run = client(tmp_path).get_run(summary["run_id"])
    assert run.info.status == "FAILED"
    assert run.data.tags[names.ERROR] == summary["error"]
    assert run.data.tags[names.CAUSE] == names.NOT_FINITE
    state, _ = checkpoint.newest(
        tmp_path / "mlruns/runs" / summary["run_id"] / "checkpoints", signature_of(tmp_path, summary), 0
    )
    assert state is not None
    assert all(tensor.isfinite().all() for tensor in state.tensors.values())


def test_a_users_own_file_with_a_gaussian_likelihood_runs(tmp_path: Path, small_file: Path) -> None:
    options = ["--set", "model.likelihood=gaussian", "--set", "training.samples=2", "--summary", "s.json"]
    process = repro("run", str(small_file), *options, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["experiment"] == "small"
    assert "it overrides model.likelihood, training.samples" in summary["reasons"]


@pytest.mark.slow
def test_the_cifar_setup_runs_on_its_stand_in(tmp_path: Path) -> None:
    process = repro("run", "cifar_conv", "--epochs", "1", "--summary", "s.json", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "s.json").read_text())["cost"] == pytest.approx(2129, abs=40)


def test_list_and_show_as_json(tmp_path: Path) -> None:
    rows = json.loads(repro("list", "--json", cwd=tmp_path).stdout)
    conv = next(row for row in rows if row["name"] == "mnist_conv")
    assert conv == {
        "name": "mnist_conv",
        "dataset": "mnist",
        "epochs": 150,
        "batch_size": 100,
        "learning_rate": 1e-4,
        "latent": 20,
        "reported": [{"epoch": 150, "cost": 99.197660592}],
        "variant_of": None,
    }
    shown = json.loads(repro("show", "mnist_conv", "--json", cwd=tmp_path).stdout)
    assert {key: shown[key] for key in conv} == conv
    assert shown["parameters"] == 818_433
    assert not (tmp_path / "mlruns").exists(), "looking leaves nothing behind"


def test_a_users_own_folders_of_the_same_names_are_left_alone(tmp_path: Path) -> None:
    for name in ("experiments", "analysis", "benchmarks", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not mine to import')")
    process = in_a_process("list", "--json", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "mnist_fc" in {row["name"] for row in json.loads(process.stdout)}
    refused = in_a_process("report", "--results", "nowhere", cwd=tmp_path)
    assert refused.stderr.startswith("error: results file nowhere")


def test_data_says_what_is_where(tmp_path: Path) -> None:
    process = repro("data", "--data-dir", str(tmp_path), cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "absent" in process.stdout
    assert "stand-in" in process.stdout
