"""Cost and gradients of the fast step against float64 autograd: the experiments, any architecture, extreme inputs."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.steps import SETUPS, require_exact, setup

from repro import spec
from repro.engine import Settings, Unsupported, choose
from repro.engine.fast import FastStep
from repro.engine.fast.layers import Softplus
from repro.engine.fast.network import cross_entropy, cross_entropy_gradient
from repro.model import build
from repro.spec import Adam, Conv, Data, Dense, Experiment, MeanPool, Reshape, TConv, Training

FAST_ACTIVATIONS = ("identity", "relu", "sigmoid", "softplus", "tanh")


@pytest.mark.parametrize("name", SETUPS)
@pytest.mark.parametrize(("threads", "product"), [(1, "mkl"), (1, "onednn"), (2, "onednn")])
def test_gradients_agree_with_float64_autograd(name: str, threads: int, product: str) -> None:
    experiment = setup(name)
    model = build(experiment, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)  # large enough that no gradient drowns in rounding
    torch.set_num_threads(threads)
    require_exact(experiment, FastStep(experiment, model, Settings(threads=threads, products=product)), model, 1e-5)


SIZES = st.integers(1, 6)
ACTIVATIONS = st.sampled_from([*FAST_ACTIVATIONS, None])
CHANNELS = st.sampled_from([1, 2, 3, 8, 15, 16, 17, 24])


@st.composite
def image_layers(draw: st.DrawFn, height: int, width: int) -> list[spec.Layer]:
    """Up to three layers from images to images of some other size."""
    found: list[spec.Layer] = []
    for kind in draw(st.lists(st.sampled_from(["conv", "pool", "tconv"]), max_size=3)):
        if kind == "conv":
            found.append(Conv(draw(SIZES), draw(CHANNELS), draw(ACTIVATIONS)))
        elif kind == "pool":
            size = draw(st.sampled_from([n for n in (1, 2, 4, 7) if height % n == 0 and width % n == 0]))
            found.append(MeanPool(size))
            height, width = height // size, width // size
        elif height * width <= 200:
            stride = draw(st.integers(1, 3))
            found.append(TConv(draw(SIZES), draw(CHANNELS), stride, draw(ACTIVATIONS)))
            height, width = height * stride, width * stride
    return found


@st.composite
def dense_layers(draw: st.DrawFn) -> list[spec.Layer]:
    """Up to two of them."""
    return [Dense(draw(st.integers(1, 90)), draw(ACTIVATIONS)) for _ in range(draw(st.integers(0, 2)))]


@st.composite
def encoders(draw: st.DrawFn) -> list[spec.Layer]:
    """Images of the data's or another shape, then vectors, then perhaps images again."""
    channels, height, width = draw(st.sampled_from([(1, 28, 28), (4, 14, 14), (2, 14, 28), (7, 28, 4), (28, 7, 4)]))
    found = (
        [Reshape(channels, height, width)] * (channels > 1) + draw(image_layers(height, width)) + draw(dense_layers())
    )
    if draw(st.booleans()):
        channels = draw(CHANNELS)
        found += [Dense(channels * 8, draw(ACTIVATIONS)), Reshape(channels, 4, 2), *draw(image_layers(4, 2))]
    return found


@st.composite
def decoders(draw: st.DrawFn) -> list[spec.Layer]:
    """Vectors, perhaps images of some shape and vectors again, then transposed convolutions up to the data's shape."""
    found = draw(dense_layers())
    if draw(st.booleans()):
        found += [Dense(36, draw(ACTIVATIONS)), Reshape(3, 2, 6), *draw(image_layers(2, 6)), *draw(dense_layers())]
    strides = draw(st.sampled_from([(), (2,), (4,), (2, 2), (7,), (1, 2), (2, 7), (1,)]))
    side, channels = 28 // math.prod(strides), draw(CHANNELS)
    found += [Dense(channels * side * side, draw(ACTIVATIONS)), Reshape(channels, side, side)]
    found += [TConv(draw(SIZES), draw(CHANNELS), stride, draw(ACTIVATIONS)) for stride in strides[:-1]]
    if draw(st.booleans()):
        found.append(Conv(draw(SIZES), draw(CHANNELS), draw(ACTIVATIONS)))
    if draw(st.booleans()):
        return [*found, Dense(784)]
    return [*found, TConv(draw(SIZES), 1, strides[-1]) if strides else Conv(draw(SIZES), 1)]


@st.composite
def experiments(draw: st.DrawFn) -> Experiment:
    """Small architectures of everything that a spec can say, but for activations that the fast step has not."""
    encoder, decoder, activation = draw(encoders()), draw(decoders()), draw(st.sampled_from(FAST_ACTIVATIONS))
    model = spec.VAE(tuple(encoder), draw(st.integers(1, 5)), tuple(decoder), activation, init="pytorch")
    return Experiment(Data("mnist"), model, Adam(1e-3), Training(epochs=1, batch_size=draw(st.integers(2, 5))))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(experiment=experiments())
def test_any_architecture_is_exact_or_refused(experiment: Experiment) -> None:
    layers = (*experiment.model.encoder, *experiment.model.decoder)
    covered = all(layer.kernel >= layer.stride for layer in layers if isinstance(layer, TConv))
    model = build(experiment, 0)
    try:
        step = FastStep(experiment, model, Settings())
    except Unsupported:
        assert not covered
    else:
        assert covered
        require_exact(experiment, step, model, 1e-4)
        assert choose(experiment, build(experiment, 0), Settings()).settings.engine == "fast"


def test_softplus_at_extreme_inputs() -> None:
    a = torch.cat(
        [torch.tensor([-200.0, -88, -80, -30, -1e-4, 0, 1e-4, 30, 80, 88, 200]), torch.linspace(-100, 100, 999)]
    )
    exact = a.double().requires_grad_()
    expected = F.softplus(exact, threshold=1e9)
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    layer = Softplus()
    torch.testing.assert_close(layer.forward(a.clone()).double(), expected, rtol=2e-7, atol=2e-7)
    torch.testing.assert_close(
        layer.backward(torch.ones_like(a), torch.empty_like(a)).double(), slope, rtol=0, atol=2e-7
    )
    assert Softplus().forward(torch.tensor([float("nan")])).isnan().all()


@pytest.mark.parametrize("pixels", [3, 8, 784])
def test_cross_entropy_at_extreme_logits(pixels: int) -> None:
    g = torch.Generator().manual_seed(0)
    logits = (torch.rand(6, pixels, generator=g) - 0.5) * torch.tensor([1e-3, 1, 20, 100, 400, 400]).view(6, 1)
    logits[5] = logits[5].sign() * 200
    x = torch.randint(0, 256, (6, pixels), generator=g) / 255
    x[4:] = x[4:].round()  # wholly right and wholly wrong answers
    for row in range(6):
        exact = logits[row : row + 1].double().requires_grad_()
        expected = F.binary_cross_entropy_with_logits(exact, x[row : row + 1].double(), reduction="sum")
        (slope,) = torch.autograd.grad(expected, exact)
        at = logits[row : row + 1].clone()
        total = cross_entropy(at, x[row : row + 1])
        grad = cross_entropy_gradient(at, x[row : row + 1], 0.5)
        assert total.item() == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(grad.double(), slope / 2, rtol=1e-5, atol=1e-7)
