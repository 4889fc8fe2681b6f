"""The engines against each other and by other roads: float64 autograd, torch.optim, formulas at extreme inputs."""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from repro import engine, spec
from repro.engine import Settings, Step, Unsupported, choose, cuda_graph, losses, to_batch
from repro.engine.cuda_graph import GraphStep
from repro.engine.fast import FastStep, products
from repro.engine.fast.activations import Softplus
from repro.engine.fast.network import BernoulliFromLogits
from repro.engine.plain import PlainStep
from repro.model import VAE, build
from repro.runs.config import RunConfig
from repro.runs.result import not_comparable
from repro.spec import Adam, Conv, Data, Dense, Experiment, MeanPool, Reshape, TConv, Training, registry
from repro.spec.overrides import apply
from repro.training import checkpoint, loop

SETUPS = ("mnist_fc", "mnist_conv", "cifar_conv")
FAST_ACTIVATIONS = ("identity", "relu", "sigmoid", "softplus", "tanh")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Weights that a test draws, and its reference's sums, do not depend on when it runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.fixture(scope="module")
def plain_costs() -> dict[str, list[float]]:
    torch.set_num_threads(1)
    found = {}
    for name in SETUPS:
        experiment = registry.get(name).spec
        found[name] = costs_of(PlainStep(experiment, build(experiment, 0), Settings()), batches(experiment, 50))
    return found


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", SETUPS)
def test_costs_of_the_first_fifty_steps_agree(name: str, threads: int, plain_costs: dict[str, list[float]]) -> None:
    experiment = registry.get(name).spec
    torch.set_num_threads(threads)
    step = choose(experiment, build(experiment, 0), Settings(threads=threads))
    assert step.settings.engine == "fast"
    assert costs_of(step, batches(experiment, 50)) == pytest.approx(plain_costs[name], rel=1e-4)
    assert plain_costs[name][-1] < plain_costs[name][0]


@pytest.mark.parametrize("name", SETUPS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("product", ["mkl", "onednn"])
def test_gradients_agree_with_float64_autograd(name: str, threads: int, product: str) -> None:
    experiment = apply(registry.get(name).spec, ["training.batch_size=50"])
    model = build(experiment, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)  # large enough that no gradient drowns in rounding
    torch.set_num_threads(threads)
    require_exact(experiment, FastStep(experiment, model, Settings(threads=threads, products=product)), model, 1e-5)


@pytest.mark.parametrize("name", [*SETUPS, "mnist_fc_kl_as_printed"])
@pytest.mark.parametrize("threads", [1, 2])
def test_costs_of_standing_weights_are_the_elbo_and_leave_training_alone(name: str, threads: int) -> None:
    torch.set_num_threads(threads)
    experiment, data = registry.get(name).spec, batches(registry.get(name).spec, 3)
    images = torch.cat([each for each, _ in data])[:230]  # two whole batches and a rest
    noise = torch.cat([each for _, each in data], dim=1)[:, :230]
    found = []
    for measures in (True, False):
        model = build(experiment, 0)
        with torch.no_grad():
            model.log_variance_head.bias.fill_(-1)  # or the KL drowns in rounding
        step = choose(experiment, model, Settings(threads=threads))
        assert step.settings.engine == "fast"
        costs_of(step, data)
        if measures:
            with torch.no_grad():
                expected = [each.double().sum().item() for each in losses(model, to_batch(images), noise)]
            assert step.costs(images, noise).tolist() == pytest.approx(expected, rel=1e-5)
        found.append(costs_of(step, data))
    assert found[0] == found[1]


def test_an_engine_is_tried_once_for_what_is_asked_and_what_it_comes_to() -> None:
    experiment = apply(registry.get("mnist_fc").spec, ["model.latent=3"])
    engine.trial.cache_clear()
    step = choose(experiment, build(experiment, 0), engine.resolve(experiment, Settings()))
    assert step.settings.products
    assert engine.trial.cache_info().misses == 1


@pytest.mark.parametrize("name", SETUPS)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_settings_give_the_same_bits(name: str, threads: int) -> None:
    experiment = registry.get(name).spec
    chosen = Settings(threads=threads)
    torch.set_num_threads(threads)
    digests = set()
    for _ in range(3):
        model = build(experiment, 0)
        step = choose(experiment, model, chosen)
        costs_of(step, batches(experiment, 4))
        digests.add(checkpoint.digest(model.state_dict() | step.state()))
        chosen = step.settings
    assert len(digests) == 1
    assert chosen.products in ("mkl", "onednn")


@pytest.mark.parametrize(("first", "second"), [("fast", "fast"), ("plain", "fast"), ("fast", "plain")])
@pytest.mark.parametrize("name", ["mnist_fc", "mnist_conv"])
def test_any_engine_goes_on_from_the_checkpoint_of_any(name: str, first: str, second: str, tmp_path: Path) -> None:
    experiment, data = registry.get(name).spec, batches(registry.get(name).spec, 8)
    model = build(experiment, 0)
    step = choose(experiment, model, Settings(threads=2, engine=first))
    costs_of(step, data[:4])
    path = checkpoint.save_state(checkpoint.snapshot(model, step.state(), experiment, 0, [{}]), tmp_path)
    expected = costs_of(step, data[4:])

    other = build(experiment, 1)
    other_step = choose(experiment, other, Settings(threads=2, engine=second))
    costs_of(other_step, data[:1])  # what is there is overwritten
    other_step.load_state(checkpoint.restore(checkpoint.load_state(path), other))
    found = costs_of(other_step, data[4:])
    same = checkpoint.digest(other.state_dict() | other_step.state()) == checkpoint.digest(
        model.state_dict() | step.state()
    )
    assert found == (expected if first == second else pytest.approx(expected, rel=1e-4))
    assert same == (first == second)


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


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
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


@pytest.mark.parametrize("change", ["likelihood=gaussian", "activation=gelu", "samples=2"])
def test_what_the_fast_step_does_not_cover_is_trained_plainly(small: Experiment, change: str) -> None:
    experiment = apply(small, [f"{'training' if 'samples' in change else 'model'}.{change}"])
    model = build(experiment, 0)
    with pytest.raises(Unsupported):
        FastStep(experiment, build(experiment, 0), Settings())
    step = choose(experiment, model, Settings(engine="fast"))
    assert step.settings == Settings(engine="plain")
    noise = torch.randn(experiment.training.samples, 100, experiment.model.latent)
    images = batches(experiment, 1)[0][0]
    assert (
        costs_of(step, [(images, noise)] * 30)[-1]
        < costs_of(PlainStep(experiment, build(experiment, 0), Settings()), [(images, noise)])[0]
    )


def absent(*_: object) -> Tensor:
    raise NotImplementedError("no such operator on this machine")


def wrong(x: Tensor, w: Tensor, *_: object) -> Tensor:
    return torch.zeros(*x.shape[:1], w.shape[0], *x.shape[2:])


@pytest.fixture
def fresh_choice() -> Iterator[None]:
    caches = products.default, engine.trial
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()


@pytest.mark.usefixtures("fresh_choice")
@pytest.mark.parametrize(
    "operator", [SimpleNamespace(), SimpleNamespace(default=absent), SimpleNamespace(default=wrong)]
)
@pytest.mark.parametrize("recorded", ["", "onednn"])
def test_without_onednn_products_mkl_is_taken(
    operator: object, recorded: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", operator)
    experiment = registry.get("mnist_fc").spec
    step = choose(experiment, build(experiment, 0), Settings(products=recorded))
    assert (step.settings.engine, step.settings.products) == ("fast", "mkl")
    mixed = choose(experiment, build(experiment, 0), Settings(precision="mixed"))
    assert (mixed.settings.engine, mixed.settings.products) == ("plain", "")
    assert not recwarn.list


@pytest.mark.usefixtures("fresh_choice")
@pytest.mark.parametrize("operator", [absent, wrong])
def test_without_the_convolution_the_plain_step_is_taken(
    operator: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", operator)
    experiment = registry.get("mnist_conv").spec
    assert choose(experiment, build(experiment, 0), Settings()).settings == Settings(engine="plain")
    assert not recwarn.list


def test_choosing_leaves_model_and_random_numbers_as_they_are(small: Experiment) -> None:
    model, before = build(small, 0), build(small, 0)
    generator = torch.get_rng_state()
    step = choose(small, model, Settings())
    assert checkpoint.digest(model.state_dict()) == checkpoint.digest(before.state_dict())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(value.any() for value in step.state().values())


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
        likelihood, at = BernoulliFromLogits(), logits[row : row + 1].clone()
        total = likelihood.forward(at, x[row : row + 1])
        grad = likelihood.backward(at, x[row : row + 1], 0.5)
        assert total.item() == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(grad.double(), slope / 2, rtol=1e-5, atol=1e-7)


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


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_mixed_precision_is_near_float32_and_not_the_same(engine: str) -> None:
    experiment = registry.get("mnist_fc").spec
    data = batches(experiment, 30)
    step = choose(experiment, build(experiment, 0), Settings(precision="mixed", engine=engine))
    fast = engine == "fast" and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # else the plain one takes its place
    assert step.settings.products == ("bfloat16" if fast else "")
    exact, mixed = costs_of(choose(experiment, build(experiment, 0), Settings()), data), costs_of(step, data)
    assert mixed == pytest.approx(exact, rel=1e-2)
    assert max(abs(a / b - 1) for a, b in zip(mixed, exact, strict=True)) > 1e-5
    assert {parameter.dtype for parameter in step.state().values()} == {torch.float32}


def epoch_data(experiment: Experiment, images: int, seed: int) -> tuple[Tensor, Tensor]:
    return loop.epoch_order(images, experiment.data, seed, 1), loop.epoch_noise(images, experiment, seed, 1)


def warms_up_and_fails(next_step: Callable[[], None], position: Tensor) -> Callable[[], None]:
    for _ in range(3):
        position.zero_()
        next_step()
    raise RuntimeError("operation not permitted when stream is capturing")


def warms_up(next_step: Callable[[], None], position: Tensor) -> Callable[[], None]:
    with pytest.raises(RuntimeError):
        warms_up_and_fails(next_step, position)
    return next_step


@pytest.mark.parametrize("capture", [None, warms_up, warms_up_and_fails])
@pytest.mark.parametrize("samples", [1, 2])
def test_the_captured_step_trains_as_the_plain_one(
    small: Experiment, capture: Callable[..., Callable[[], None]] | None, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the GPU's path but the capture itself, on a CPU: batches, costs and state, epoch after epoch."""
    experiment = apply(small, [f"training.samples={samples}"])
    monkeypatch.setattr(cuda_graph, "CHUNK", 3)
    if capture is not None:
        monkeypatch.setattr(cuda_graph, "capture", capture)
    images = torch.cat([each for each, _ in batches(experiment, 8)])[:-30]  # 7 whole batches and 70 images
    model, other = build(experiment, 0), build(experiment, 0)
    graph, plain = GraphStep(experiment, model, Settings(device="cpu")), PlainStep(experiment, other, Settings())
    for seed in (1, 2):
        order, noise = epoch_data(experiment, len(images), seed)
        found = [each.clone() for each in graph.epoch(images, order, noise)]
        assert [len(each) for each in found] == [3, 3, 1]
        assert torch.equal(torch.cat(found), torch.cat(list(plain.epoch(images, order, noise))))
    assert checkpoint.digest(model.state_dict() | graph.state()) == checkpoint.digest(
        other.state_dict() | plain.state()
    )


def test_on_a_gpu_every_step_is_announced_and_the_first_bad_one_is_named(
    small: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graph, "CHUNK", 4)
    images = torch.cat([each for each, _ in batches(small, 7)])
    taken: list[int] = []
    step = GraphStep(small, build(small, 0), Settings(device="cpu"))
    costs = loop.train_epoch(step, images, small, 0, 1, lambda: taken.append(1))
    assert len(taken) == 7
    other = PlainStep(small, build(small, 0), Settings())
    assert loop.train_epoch(other, images, small, 0, 1) == costs
    bad = torch.ones(7, 2, dtype=torch.float64)
    bad[4, 1], bad[5, 0] = float("inf"), float("nan")
    with pytest.raises(loop.NotFiniteError, match=r"epoch 3, step 5: reconstruction 1.0, KL inf"):
        loop.require_finite(bad, 3)
    loop.require_finite(bad[:4], 3)


def test_one_thread_is_put_back_also_after_an_error() -> None:
    torch.set_num_threads(2)
    with pytest.raises(KeyboardInterrupt), products.one_thread():
        assert torch.get_num_threads() == 1
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 2


def test_a_run_records_what_was_chosen_and_mixed_precision_is_not_comparable(small: Experiment) -> None:
    dataset, entry = SimpleNamespace(fingerprint="f", status="canonical"), registry.get("mnist_fc")
    config = RunConfig("mnist_fc", small, threads=2, precision="mixed").resolved()
    assert (config.threads, config.precision, config.engine, config.products) == (2, "mixed", "fast", "bfloat16")
    assert config.resolved() == config
    exact = apply(entry.spec, [])
    assert not_comparable(entry, exact, dataset) == not_comparable(entry, exact, dataset, "float32") == ()
    assert "mixed precision" in not_comparable(entry, exact, dataset, "mixed")[0]


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
    """200 steps by the gradients that the engine itself took, which the first moment gives back: the encoder's first
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
    for images, noise in batches(experiment, 200):
        step.step(images, noise)
        for key in watched:
            moments[key].append(step.state()[f"{key}/exp_avg"].double().numpy().copy())
    for key, weight in weights.items():
        gradients = [(now - beta * then) / (1 - beta) for then, now in itertools.pairwise(moments[key])]
        moved = numpy_adam(experiment.optim, start[key], gradients) - start[key]
        np.testing.assert_allclose(
            weight.detach().double().numpy() - start[key], moved, atol=1e-5 * np.abs(moved).max()
        )
