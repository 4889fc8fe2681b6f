"""What the tests of the engines share: data to learn, costs of steps, gradients by another road."""

import pytest
import torch
from torch import Tensor

from repro.engine import Step, losses
from repro.engine.fast import FastStep
from repro.model import VAE, build
from repro.spec import Experiment, registry
from repro.spec.overrides import apply

SETUPS = ("mnist_fc", "mnist_conv", "cifar_conv")


def setup(name: str) -> Experiment:
    """An experiment with small batches, which are as exact and faster."""
    return apply(registry.get(name).spec, ["training.batch_size=20"])


def batches(experiment: Experiment, count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Batches with twenty patterns to learn, and noise."""
    g = torch.Generator().manual_seed(seed)
    (channels, height, width), size = experiment.data.shape, experiment.training.batch_size
    patterns = torch.rand(20, height, width, channels, generator=g) ** 3 * 255
    found = []
    for _ in range(count):
        strength = torch.rand(size, 1, 1, 1, generator=g)
        images = patterns[torch.randint(20, (size,), generator=g)] * strength
        found.append((images.to(torch.uint8), torch.randn(1, size, experiment.model.latent, generator=g)))
    return found


def costs_of(step: Step, data: list[tuple[Tensor, Tensor]]) -> list[float]:
    return [sum(map(float, step.step(images, noise))) for images, noise in data]


def gradients_in_float64(
    experiment: Experiment, model: VAE, images: Tensor, noise: Tensor
) -> tuple[float, dict[str, Tensor]]:
    exact = build(experiment, 0).double()
    exact.load_state_dict(model.state_dict())
    x = images.double().div(255).permute(0, 3, 1, 2)
    cost = sum(each.mean() for each in losses(exact, x, noise.double()))
    names, values = zip(*exact.named_parameters(), strict=True)
    return cost.item(), dict(zip(names, torch.autograd.grad(cost, values), strict=True))


def require_exact(experiment: Experiment, step: FastStep, model: VAE, tolerance: float) -> None:
    """Cost and gradients of one step agree with float64 autograd; after one step exp_avg is a share of the gradient."""
    images, noise = batches(experiment, 1)[0]
    cost, gradients = gradients_in_float64(experiment, model, images, noise)
    assert costs_of(step, [(images, noise)])[0] == pytest.approx(cost, rel=1e-5)
    state, whole = step.state(), torch.stack([each.norm() for each in gradients.values()]).norm()
    for name, expected in gradients.items():
        found = state[f"{name}/exp_avg"] / (1 - experiment.optim.beta1)
        assert found.shape == expected.shape
        assert (found - expected).norm() <= tolerance * expected.norm() + 1e-6 * whole, name
