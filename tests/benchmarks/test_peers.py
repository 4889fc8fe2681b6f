"""The benchmark's peers as real processes, and the plain one's cost against the reference's on the same weights."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from repro.benchmarks.peers import plain_pytorch, protocol
from repro.benchmarks.peers.plan import plan

from repro import registry
from repro.engine import losses, to_batch
from repro.model import build
from repro.spec import Dense, Reshape, Shape

ROOT = Path(__file__).parents[2]
PARAMETERS = {"mnist_fc": 1_316_824, "mnist_conv": 818_433, "cifar_conv": 1_150_235}
FIRST_COST = {"mnist_fc": 784 * np.log(2), "mnist_conv": 784 * np.log(2), "cifar_conv": 3072 * np.log(2)}
PEERS = [
    pytest.param(
        peer,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(library) is None, reason=f"{library} is not installed: pip install .[bench]"
        ),
    )
    for peer, library in (("plain_pytorch", "torchvision"), ("keras_tf", "tensorflow"), ("jax_step", "jax"))
]


@pytest.fixture(params=PARAMETERS)
def setup(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def images(tmp_path: Path, setup: str) -> Path:
    """Few images, so that a peer starts quickly."""
    path = tmp_path / "images.npy"
    np.save(path, protocol.synthetic(registry.get(setup).spec, seed=0)[:300])
    return path


def peer(name: str, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"repro.benchmarks.peers.{name}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_trains_the_network_of_the_text_and_prints_one_line(name: str, setup: str, images: Path) -> None:
    done = peer(name, setup, "--steps", 3, "--warmup", 2, "--images", images, "--costs")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert (found["peer"], found["setup"], found["threads"], found["steps"]) == (name, setup, 1, 3)
    assert found["parameters"] == PARAMETERS[setup]
    assert found["first_cost"] == pytest.approx(FIRST_COST[setup], rel=0.03)
    assert found["last_cost"] < found["first_cost"]
    assert len(found["costs"]) == 5
    assert found["seconds_per_epoch"] == pytest.approx(found["seconds"] / 3 * {"c": 500, "m": 550}[setup[0]])
    assert 50 < found["peak_rss_mib"] < 4000
    assert found["versions"]


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("setup", ["mnist_fc"], indirect=True)
def test_a_served_peer_answers_each_line_and_ends_with_its_input(name: str, setup: str, images: Path) -> None:
    done = peer(name, setup, "--warmup", 1, "--images", images, "--serve", stdin="2\n1\n")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["steps"] for answer in answers] == [2, 1]
    assert all(answer["seconds"] > 0 for answer in answers)
    assert answers[1]["cost"] < answers[0]["cost"] < FIRST_COST[setup]


@pytest.mark.parametrize("setup", ["mnist_fc"], indirect=True)
def test_a_line_that_is_no_number_ends_a_served_peer(setup: str, images: Path) -> None:
    done = peer("plain_pytorch", setup, "--warmup", 0, "--images", images, "--serve", stdin="1\nmany\n")
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == "--serve: 'many' is not a whole number from 1\n"


@pytest.mark.parametrize(
    ("name", "library", "called"), [("keras_tf", "tensorflow", "TensorFlow"), ("jax_step", "jax", "JAX")]
)
def test_a_missing_library_is_one_line(name: str, library: str, called: str) -> None:
    program = (
        f"import runpy, sys; sys.modules[{library!r}] = None; sys.argv[1:] = ['mnist_fc'];"
        f"runpy.run_module('benchmarks.peers.{name}', run_name='__main__')"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr == f"{called} is not installed: pip install .[bench]\n"


def test_wrong_use_says_what_was_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)  # this process goes on
    small, absent = tmp_path / "small.npy", tmp_path / "absent.npy"
    np.save(small, np.zeros((100, 28, 28), np.uint8))
    for arguments, said in [
        (["mnist"], "'mnist'"),
        (["mnist_fc", "--steps", "0"], "--steps: '0' is not a whole number from 1"),
        (["mnist_fc", "--threads", "100000"], "--threads 100000: this process may use"),
        (["mnist_fc", "--images", str(absent)], "absent.npy"),
        (["mnist_fc", "--images", str(small)], "holds uint8 [100, 28, 28], needs uint8 [N, 28, 28, 1]"),
    ]:
        monkeypatch.setattr(sys, "argv", ["peer", *arguments])
        with pytest.raises(SystemExit) as ended:
            protocol.main("peer", lambda _: pytest.fail("got to training"), {})
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_plain_pytorch_computes_the_reference_cost_on_the_same_weights(setup: str) -> None:
    experiment = registry.get(setup).spec
    layers, reference = plan(experiment), build(experiment, seed=0)
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.03)
    torch.nn.init.zeros_(reference.log_variance_head.weight)
    torch.nn.init.constant_(reference.log_variance_head.bias, -60)  # so that noise does not matter
    plain = plain_pytorch.VAE(layers)
    _copy_weights(reference, plain, layers.nodes)
    pixels = protocol.synthetic(experiment, seed=0)[:50]
    expected = sum(losses(reference, to_batch(torch.from_numpy(pixels)), torch.zeros(1, 50, experiment.model.latent)))
    x = torch.stack(list(map(plain_pytorch.Images(pixels).__getitem__, range(50))))
    y, mean, log_variance = plain(x)
    loss = plain_pytorch.loss_function(y, x, mean, log_variance)
    assert loss.item() == pytest.approx(expected.sum().item(), rel=1e-5)


def _copy_weights(reference: Any, plain: Any, nodes: Any) -> None:
    """The reference flattens by row, column, channel; plain PyTorch by channel, row, column."""
    pairs = zip(*(iter(zip(reference.parameters(), plain.parameters(), strict=True)),) * 2, strict=True)
    for index, node in enumerate(nodes):
        if not node.weight_shape:
            continue
        for source, target in next(pairs):
            value = source.detach()
            if value.dim() == 2 and isinstance(node.takes, Shape):
                channels, height, width = node.takes
                value = value.unflatten(1, (height, width, channels)).movedim(3, 1).flatten(1)
            if isinstance(node.layer, Dense) and index + 1 < len(nodes) and isinstance(nodes[index + 1].layer, Reshape):
                channels, height, width = nodes[index + 1].gives
                value = value.unflatten(0, (height, width, channels)).movedim(2, 0).flatten(0, 2)
            target.data.copy_(value)
