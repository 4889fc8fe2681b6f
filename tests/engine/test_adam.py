"""Adam against torch.optim and the formulas of the paper, by itself and in every engine."""

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.steps import batches

from repro import engine
from repro.engine import Settings, losses, to_batch
from repro.engine.cuda_graph import GraphStep
from repro.engine.fast import FastStep
from repro.engine.plain import PlainStep
from repro.model import build
from repro.spec import Adam, Experiment, registry
from repro.spec.overrides import apply


def test_adam_is_torch_adam(small: Experiment) -> None:
    experiment = apply(small, ["optim.lr=0.02", "optim.beta1=0.8", "optim.beta2=0.95", "optim.epsilon=1e-4"])
    model, other = build(experiment, 0), build(experiment, 0)
    step = PlainStep(experiment, model, Settings())
    optimiser = torch.optim.Adam(other.parameters(), 0.02, (0.8, 0.95), 1e-4)
    for images, noise in batches(experiment, 5):
        step.step(images, noise)
        optimiser.zero_grad()
        sum(each.mean() for each in losses(other, to_batch(images), noise)).backward()
        optimiser.step()
    for name, value in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    assert step.state()["steps"].item() == 5


def numpy_adam(settings: Adam, x: NDArray[np.float64], gradients: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Section 2 of Kingma and Ba (2015): algorithm 1, or its reordered form with epsilon hat."""
    m, v, reordered = np.zeros_like(x), np.zeros_like(x), settings.epsilon_at == "sqrt_uncorrected"
    for t, g in enumerate(gradients, start=1):
        m = settings.beta1 * m + (1 - settings.beta1) * g
        v = settings.beta2 * v + (1 - settings.beta2) * g * g
        first, second = 1 - settings.beta1**t, 1 - settings.beta2**t
        if reordered:
            x = x - settings.lr * np.sqrt(second) / first * m / (np.sqrt(v) + settings.epsilon)
        else:
            x = x - settings.lr * (m / first) / (np.sqrt(v / second) + settings.epsilon)
    return x


@pytest.mark.parametrize("size", [1e-9, 1e-2])
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("epsilon_at", ["sqrt_corrected", "sqrt_uncorrected"])
def test_adam_agrees_with_the_paper_over_200_steps(epsilon_at: str, size: float, capturable: bool) -> None:
    settings, generator = Adam(lr=1e-3, epsilon_at=epsilon_at), torch.Generator().manual_seed(0)
    x, steps = torch.zeros(1000), torch.zeros(())
    optimiser = engine.adam.Adam(settings, [x], capturable)
    gradients = [torch.randn(1000, generator=generator) * size for _ in range(200)]
    for gradient in gradients:
        steps += 1
        optimiser.update([gradient], steps)
    expected = numpy_adam(settings, np.zeros(1000), [each.double().numpy() for each in gradients])
    np.testing.assert_allclose(x.numpy(), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("size", [1e-9, 1e-2])
def test_the_places_of_epsilon_differ_where_gradients_are_tiny_and_only_there(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(1000, generator=generator).double().numpy() * size for _ in range(200)]
    corrected, uncorrected = (
        numpy_adam(Adam(lr=1e-3, epsilon_at=where), np.zeros(1000), gradients)
        for where in ("sqrt_corrected", "sqrt_uncorrected")
    )
    ratio = np.abs(uncorrected).mean() / np.abs(corrected).mean()
    assert ratio < 0.5 if size < 1e-8 else ratio > 0.8


@pytest.mark.parametrize("name", ["mnist_conv", "mnist_conv_pytorch_adam"])
@pytest.mark.parametrize("make", [FastStep, GraphStep, PlainStep])
def test_every_engine_moves_weights_as_the_paper_says(name: str, make: type[PlainStep]) -> None:
    """60 steps by the gradients that the engine itself took, which the first moment gives back: the encoder's first
    layer begins with gradients of some 1e-8, the last layer with ordinary ones."""
    experiment = apply(registry.get(name).spec, ["training.batch_size=10"])
    step = make(experiment, build(experiment, 0), Settings())
    watched = ("encoder.0.bias", "outputs.0.0.bias")
    weights = {key: dict(step.model.named_parameters())[key] for key in watched}
    start, beta = (
        {key: weight.detach().double().numpy().copy() for key, weight in weights.items()},
        experiment.optim.beta1,
    )
    moments: dict[str, list[NDArray[np.float64]]] = {key: [np.zeros_like(start[key])] for key in watched}
    for images, noise in batches(experiment, 60):
        step.step(images, noise)
        for key in watched:
            moments[key].append(step.state()[f"{key}/exp_avg"].double().numpy().copy())
    for key, weight in weights.items():
        gradients = [(now - beta * then) / (1 - beta) for then, now in itertools.pairwise(moments[key])]
        moved = numpy_adam(experiment.optim, start[key], gradients) - start[key]
        np.testing.assert_allclose(
            weight.detach().double().numpy() - start[key], moved, atol=1e-5 * np.abs(moved).max()
        )
