"""The benchmark: the real command for a step or two; peers that are missing, crash or hang; FLOPs counted by hand."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from repro.benchmarks import driver, peer_process, report, sweeps
from repro.benchmarks.peer_process import PeerError, PeerProcess

from repro.terminal import table

ROOT = Path(__file__).resolve().parents[2]
MEASURED = {
    "images_per_second", "seconds_per_epoch", "step_ms", "step_ms_by_round", "cores_busy", "peak_rss_mib", "versions",
}  # fmt: skip
FAKE = """#!/bin/sh
case "$3$4" in
keras_tf--check) echo "No module named 'tensorflow'" >&2; exit 3 ;;
jax_step--check) echo '{"versions": {"jax": "1.0"}}' ;;
jax_step) read line; read line; echo '{"seconds": 0.01, "steps": 2}'; read line
  printf 'Traceback\\nboom\\n' >&2; exit 7 ;;
silent--check) exec sleep 60 ;;
esac
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "repro", "bench", *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "CXX": "no-compiler"}


def bench(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=280, check=False
    )


@pytest.fixture(scope="module")
def fake_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As if another Python had no TensorFlow, and a JAX that dies in its second turn."""
    path = tmp_path_factory.mktemp("fake") / "python"
    path.write_text(FAKE, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, fake_python: Path) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("bench")
    done = bench(folder, "mnist_fc", "--quick", "--json", "--peer-python", str(fake_python))
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def found(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.slow
def test_the_json_has_the_documented_keys(found: dict[str, Any]) -> None:
    assert set(found) == {"machine", "precision", "rounds", "setups"}
    assert set(found["machine"]) == {
        "cpu", "cores", "memory_gib", "platform", "python", "torch", "load_average", "busy",
    }  # fmt: skip
    (setup,) = found["setups"].values()
    assert set(setup) == {
        "batch_size", "steps_per_epoch", "dense_flop_per_step", "conv_flop_per_step", "threads",
    }  # fmt: skip
    assert list(setup["threads"]) == ["1", "2"][: found["machine"]["cores"]]
    for result in setup["threads"].values():
        assert set(result) == {"engine", "floor", "speed_up_over_one_thread", "plain", "compiled", "peers"}
        assert set(result["engine"]) == MEASURED | {"engine", "products", "precision", "gflop_per_second"}
        assert set(result["floor"]) == {
            "step_ms",
            "gflop_per_second",
            "engine_over_floor",
            "share_reached",
            "primitives",
        }
        for each in (result["plain"], result["peers"]["plain_pytorch"]):
            assert set(each) == MEASURED | {"status", "time_over_engine", "time_over_engine_range"}


@pytest.mark.slow
def test_its_figures_agree_with_each_other(found: dict[str, Any]) -> None:
    setup = found["setups"]["mnist_fc"]
    assert setup["dense_flop_per_step"] == 710_000_000
    assert setup["conv_flop_per_step"] == 0
    for threads, result in setup["threads"].items():
        engine, floor = result["engine"], result["floor"]
        assert (result["speed_up_over_one_thread"] is None) == (threads == "1")
        assert engine["engine"] in ("fast", "plain")
        for each in (engine, result["plain"], result["peers"]["plain_pytorch"]):
            assert len(each["step_ms_by_round"]) == found["rounds"] == 2
            assert min(each["step_ms_by_round"]) <= each["step_ms"] <= max(each["step_ms_by_round"])
            assert each["images_per_second"] == pytest.approx(100 / each["step_ms"] * 1e3)
            assert each["seconds_per_epoch"] == pytest.approx(550 * each["step_ms"] / 1e3)
            assert 100 < each["peak_rss_mib"] < 4000
            assert 0 < each["cores_busy"] <= int(threads) + 0.5
        assert engine["gflop_per_second"] == pytest.approx(0.71 / engine["step_ms"] * 1e3)
        assert floor["gflop_per_second"] == pytest.approx(0.71 / floor["step_ms"] * 1e3)
        assert floor["share_reached"] * floor["engine_over_floor"] == pytest.approx(1)
        for each in (result["plain"], result["peers"]["plain_pytorch"]):
            pairs = zip(each["step_ms_by_round"], engine["step_ms_by_round"], strict=True)
            ratios = [other / ours for other, ours in pairs]
            assert each["time_over_engine"] == pytest.approx(sum(ratios) / 2)
            assert each["time_over_engine_range"] == pytest.approx(sorted(ratios))


@pytest.mark.slow
def test_a_missing_peer_is_listed_and_a_crashing_one_survived(found: dict[str, Any], fake_python: Path) -> None:
    for result in found["setups"]["mnist_fc"]["threads"].values():
        peers, missing = (
            result["peers"],
            f"not installed: No module named 'tensorflow' ({fake_python}); {driver.REMEDY}",
        )
        assert peers["plain_pytorch"]["status"] == "measured"
        assert peers["keras_tf"] == {"status": "not installed", "message": missing}
        assert peers["jax_step"] == {"status": "failed", "message": "boom"}
        no_compiler = "not installed: torch.compile needs a C++ compiler, no-compiler"
        assert result["compiled"] == {"status": "not installed", "message": no_compiler}


@pytest.mark.slow
def test_what_can_run_is_said_before_it_is_measured(done: subprocess.CompletedProcess[str], fake_python: Path) -> None:
    lines = done.stderr.splitlines()
    assert lines[0].startswith("plain_pytorch: torch ")
    assert lines[1] == f"jax_step: jax 1.0 ({fake_python})"
    assert lines[2].startswith("keras_tf: cannot run: not installed: No module named 'tensorflow'")
    assert lines[3].startswith("compiled: cannot run: not installed: torch.compile needs a C++ compiler")
    assert lines[4] == "mnist_fc, threads 1: 2 rounds of engine, floor, plain, plain_pytorch, jax_step"


@pytest.mark.slow
@pytest.mark.parametrize("busy", [True, False])
def test_the_tables_say_what_the_json_says(
    found: dict[str, Any], busy: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        "WARNING: the machine was busy" in report.headline(found | {"machine": found["machine"] | {"busy": busy}})
    ) == busy
    for title, rows, remarks in report.tables(found):
        assert title.startswith("mnist_fc, threads ")
        assert [row[""] for row in rows] == [
            "engine", "plain", "compiled", "plain_pytorch", "keras_tf", "jax_step",
        ]  # fmt: skip

        assert "0.710 GFLOP" in remarks
        assert ("speed-up over one thread" in remarks) == ("threads 2" in title)
        table(rows)
        assert "No module named 'tensorflow'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("load", "threads", "busy"), [(0.4, 1, False), (0.6, 1, True), (0.9, 2, False), (1.1, 2, True)]
)
def test_half_a_core_of_load_is_busy(load: float, threads: int, busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert report.machine(threads)["busy"] is busy


def test_flops_are_what_a_count_by_hand_gives() -> None:
    def counted(name: str) -> tuple[int, int]:
        workload = driver.workload_of(name)
        return workload.flop("dense"), workload.flop("conv", "tconv")

    wide, square, heads, back = 784 * 500, 500 * 500, 2 * 500 * 20, 20 * 500
    every = wide + square + heads + back + square + wide
    assert counted("mnist_fc") == (6 * 100 * every - 2 * 100 * wide, 0)
    dense = 7 * 7 * 16 * 500 + heads + back + 500 * 784
    first, second = 28 * 28 * 25 * 1 * 8, 28 * 28 * 9 * 8 * 16
    up, out = 7 * 7 * 9 * 16 * 8, 14 * 14 * 9 * 8 * 1
    assert counted("mnist_conv") == (600 * dense, 600 * (first + second + up + out) - 200 * first)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mnist_fx"], "unknown experiment 'mnist_fx', did you mean 'mnist_fc'?"),
        (["--threads", "1000"], "--threads 1000: this process may use "),
        (["--peer-python", "/nowhere"], "--peer-python /nowhere: is not a program"),
    ],
)
def test_wrong_use_is_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = bench(tmp_path, *arguments, "--quick")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {said}")
    assert len(done.stderr.splitlines()) == 1


def test_a_peer_that_hangs_is_ended(fake_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_process, "DEADLINE", 0.2)
    silent = PeerProcess("silent", str(fake_python))
    try:
        with pytest.raises(PeerError, match="no answer within") as ended:
            silent.ask("1")
        assert ended.value.status == "failed"
    finally:
        silent.close()


@pytest.mark.slow
def test_an_interrupt_ends_every_peer(tmp_path: Path) -> None:
    arguments = command("mnist_fc", "--threads", "1", "--rounds", "1000")
    process = subprocess.Popen(
        arguments, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    assert any("1000 rounds of engine, floor, plain, plain_pytorch" in line for line in process.stderr)
    peers = psutil.Process(process.pid).children(recursive=True)
    assert len(peers) >= 2
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "Traceback" not in process.stderr.read()
    assert not [peer for peer in peers if peer.is_running()]


def test_ways_to_search_are_compared_round_by_round() -> None:
    spans = {
        sweeps.ONE_THREAD: (120, 240, 120),
        sweeps.ALL_CORES: (90, 180, 100),
        "a job for each core": (60, 120, 80),
    }
    turns = {way: [sweeps.Turn(2 * 3600 / span, 60.0, 0.05) for span in each] for way, each in spans.items()}
    first, second, third = sweeps.rows(turns, heldout=1.8)
    assert (first["trials an hour"], third["trials an hour"]) == (60, 90)
    assert [row["over one job, one thread"] for row in (first, second, third)] == pytest.approx([1, 4 / 3, 2])
    assert third["over one job, all cores"] == 1.5
    assert first["not training, %"] == pytest.approx(5)
    assert first["of it held-out cost, %"] == pytest.approx(3)
    assert second["of it held-out cost, %"] is None


@pytest.mark.slow
def test_a_turn_is_the_real_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    options = ["--study", "turn", "--trials", "2", "--epochs", "1", "--pruner", "none", "--data", "stand-in"]
    taken = sweeps.take(["mnist_fc", *options, "--threads", "1"])
    assert 2 * taken.seconds_a_trial <= 2 * 3600 / taken.trials_an_hour + 0.1
    assert 0 < taken.not_training < 1
