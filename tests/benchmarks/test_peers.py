"""The benchmark's peers as real processes, and the plain one's cost against the reference's on the same weights."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from repro.benchmarks.driver import workload_of
from repro.benchmarks.peer_process import FOLDER, PeerError, PeerProcess, versions
from repro.benchmarks.peers import plain_pytorch
from repro.benchmarks.peers.workload import Layer, Request, from_json, synthetic_images

from repro import registry
from repro.engine import losses, to_batch
from repro.model import build

PARAMETERS = {"mnist_fc": 1_316_824, "mnist_conv": 818_433, "cifar_conv": 1_150_235}
FIRST_COST = {"mnist_fc": 784 * np.log(2), "mnist_conv": 784 * np.log(2), "cifar_conv": 3072 * np.log(2)}
PEERS = [
    pytest.param(
        peer,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(library) is None, reason=f"{library} is not installed: pip install .[bench]"
        ),
    )
    for peer, library in (
        ("ours", "torch"),
        ("plain_pytorch", "torchvision"),
        ("keras_tf", "tensorflow"),
        ("jax_step", "jax"),
    )
]


@pytest.fixture(params=PARAMETERS)
def experiment(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asked(experiment: str, **changes: Any) -> Request:
    """A request with few images, so that a peer starts quickly."""
    return replace(Request(replace(workload_of(experiment), images=300)), **changes)


def served(name: str, request: Request, *lines: str) -> list[dict[str, Any]]:
    text = "\n".join([request.to_json(), *lines])
    command = [sys.executable, "-m", "peers.serve", name]
    done = subprocess.run(command, cwd=FOLDER, input=text, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_trains_the_experiments_network(name: str, experiment: str) -> None:
    first, second = served(name, asked(experiment), "1", "4")
    assert [first["steps"], second["steps"]] == [1, 4]
    assert first["parameters"] == PARAMETERS[experiment]
    assert first["cost"] == pytest.approx(FIRST_COST[experiment], rel=0.03)
    assert second["cost"] < first["cost"]
    assert min(first["seconds"], second["seconds"]) > 0
    assert 50 < second["peak_rss_mib"] < 4000
    assert second["versions"]


@pytest.mark.slow  # the compiler takes half a minute
def test_the_compiled_step_computes_the_plain_ones_costs() -> None:
    costs = {engine: [each["cost"] for each in served("ours", asked("mnist_fc", engine=engine), "1", "3")]
             for engine in ("plain", "compiled")}  # fmt: skip
    assert costs["compiled"] == pytest.approx(costs["plain"], rel=1e-4)


@pytest.mark.parametrize(
    ("peers", "stubs"),
    [
        (["keras_tf", "jax_step"], ["tensorflow", "jax", "jax.numpy", "jaxlib"]),
        (["plain_pytorch", "workload", "serve"], []),
    ],
)
def test_peers_import_nothing_of_this_project(peers: list[str], stubs: list[str]) -> None:
    lines = ["import sys", "from unittest.mock import MagicMock"]
    lines += [f"sys.modules[{each!r}] = None" for each in ("repro", "pydantic")]
    lines += [f"sys.modules[{each!r}] = MagicMock(__version__='1')" for each in stubs]
    lines += [f"import peers.{each}" for each in peers]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=FOLDER, check=True, timeout=120)


def test_versions_names_a_library_that_is_missing(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    with pytest.raises(PeerError, match=r"not installed: No module named 'numpy' \(.*/python\)") as missing:
        versions("jax_step", str(python))
    assert missing.value.status == "not installed"


def test_a_line_that_is_no_number_ends_a_peer() -> None:
    peer = PeerProcess("plain_pytorch", request=asked("mnist_fc"))
    try:
        assert peer.ask("1")["steps"] == 1
        with pytest.raises(PeerError, match="'many'") as ended:
            peer.ask("many")
        assert ended.value.status == "failed"
    finally:
        peer.close()


def test_a_request_is_read_as_it_was_written(experiment: str) -> None:
    request = asked(experiment, threads=2, warmup=3, engine="plain", precision="mixed")
    assert from_json(request.to_json()) == request


def test_a_plan_has_the_optimisers_settings(experiment: str) -> None:
    found, expected = workload_of(experiment).adam, registry.get(experiment).spec.optim
    assert vars(found) == {key: getattr(expected, key) for key in vars(found)}


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed: pip install .[bench]")
@pytest.mark.parametrize("epsilon_at", ["sqrt_corrected", "sqrt_uncorrected"])
def test_jax_adds_epsilon_where_the_plan_says(epsilon_at: str) -> None:
    jax_step = importlib.import_module("repro.benchmarks.peers.jax_step")
    settings = replace(workload_of("mnist_fc").adam, epsilon=0.1, epsilon_at=epsilon_at)
    w, _, square = jax_step.adam(settings, [1.0], [0.0], [0.0], 1, [0.5])
    root = np.sqrt(0.001 * 0.25)
    below = root / np.sqrt(0.001) + 0.1 if epsilon_at == "sqrt_corrected" else (root + 0.1) / np.sqrt(0.001)
    assert square[0] == pytest.approx(0.001 * 0.25)
    assert float(w[0]) == pytest.approx(1 - settings.lr * 0.5 / below, rel=1e-6)


def test_plain_pytorch_computes_the_reference_cost_on_the_same_weights(experiment: str) -> None:
    workload, spec = workload_of(experiment), registry.get(experiment).spec
    reference = build(spec, seed=0)
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.03)
    torch.nn.init.zeros_(reference.log_variance_head.weight)
    torch.nn.init.constant_(reference.log_variance_head.bias, -60)  # so that noise does not matter
    plain = plain_pytorch.VAE(workload)
    _copy_weights(reference, plain, workload.layers)
    pixels = synthetic_images(replace(workload, images=50), seed=0)
    expected = sum(losses(reference, to_batch(torch.from_numpy(pixels)), torch.zeros(1, 50, workload.latent)))
    x = torch.stack(list(map(plain_pytorch.Images(pixels).__getitem__, range(50))))
    y, mean, log_variance = plain(x)
    loss = plain_pytorch.loss_function(y, x, mean, log_variance)
    assert loss.item() == pytest.approx(expected.sum().item(), rel=1e-5)


def _copy_weights(reference: Any, plain: Any, layers: tuple[Layer, ...]) -> None:
    """The reference flattens by row, column, channel; plain PyTorch by channel, row, column."""
    pairs = zip(*(iter(zip(reference.parameters(), plain.parameters(), strict=True)),) * 2, strict=True)
    for index, layer in enumerate(layers):
        if not layer.weight_shape:
            continue
        for source, target in next(pairs):
            value = source.detach()
            if value.dim() == 2 and len(layer.takes) == 3:
                value = value.unflatten(1, layer.takes).movedim(3, 1).flatten(1)
            if layer.kind == "dense" and index + 1 < len(layers) and layers[index + 1].kind == "reshape":
                value = value.unflatten(0, layers[index + 1].gives).movedim(2, 0).flatten(0, 2)
            target.data.copy_(value)
