"""The engines against each other: costs, checkpoints, the choice between them, the step of the CUDA graph."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.steps import SETUPS, batches, costs_of, setup
from torch import Tensor

from repro import engine
from repro.engine import Settings, Unsupported, choose, cuda_graph, losses, to_batch
from repro.engine.cuda_graph import GraphStep
from repro.engine.fast import FastStep
from repro.engine.plain import PlainStep
from repro.model import build
from repro.runs.config import RunConfig
from repro.runs.result import not_comparable
from repro.spec import Experiment, registry
from repro.spec.overrides import apply
from repro.training import checkpoint, loop


@pytest.fixture(scope="module")
def plain_costs() -> dict[str, list[float]]:
    torch.set_num_threads(1)
    found = {}
    for name in SETUPS:
        experiment = setup(name)
        found[name] = costs_of(PlainStep(experiment, build(experiment, 0), Settings()), batches(experiment, 50))
    return found


@pytest.mark.parametrize(("threads", "steps"), [(1, 50), (2, 10)])
@pytest.mark.parametrize("name", SETUPS)
def test_costs_of_the_first_steps_agree(
    name: str, threads: int, steps: int, plain_costs: dict[str, list[float]]
) -> None:
    experiment = setup(name)
    torch.set_num_threads(threads)
    step = choose(experiment, build(experiment, 0), Settings(threads=threads))
    assert step.settings.engine == "fast"
    assert costs_of(step, batches(experiment, steps)) == pytest.approx(plain_costs[name][:steps], rel=1e-4)
    assert plain_costs[name][-1] < plain_costs[name][0]


@pytest.mark.parametrize(
    ("name", "threads"), [*((name, 1) for name in (*SETUPS, "mnist_fc_kl_as_printed")), ("mnist_conv", 2)]
)
def test_costs_of_standing_weights_are_the_elbo_and_leave_training_alone(name: str, threads: int) -> None:
    torch.set_num_threads(threads)
    experiment, data = setup(name), batches(setup(name), 3)
    images = torch.cat([each for each, _ in data])[:46]  # two whole batches and a rest
    noise = torch.cat([each for _, each in data], dim=1)[:, :46]
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
    experiment = apply(setup("mnist_fc"), ["model.latent=3"])
    engine.trial.cache_clear()
    step = choose(experiment, build(experiment, 0), engine.resolve(experiment, Settings()))
    assert step.settings.products
    assert engine.trial.cache_info().misses == 1


@pytest.mark.parametrize("name", SETUPS)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_settings_give_the_same_bits(name: str, threads: int) -> None:
    experiment = setup(name)
    chosen = Settings(threads=threads)
    torch.set_num_threads(threads)
    digests = set()
    for _ in range(2):
        model = build(experiment, 0)
        step = choose(experiment, model, chosen)
        costs_of(step, batches(experiment, 3))
        digests.add(checkpoint.digest(model.state_dict() | step.state()))
        chosen = step.settings
    assert len(digests) == 1
    assert chosen.products in ("mkl", "onednn")


@pytest.mark.parametrize(("first", "second"), [("fast", "fast"), ("plain", "fast"), ("fast", "plain")])
@pytest.mark.parametrize("name", ["mnist_fc", "mnist_conv"])
def test_any_engine_goes_on_from_the_checkpoint_of_any(name: str, first: str, second: str, tmp_path: Path) -> None:
    experiment, data = setup(name), batches(setup(name), 8)
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
    engine.trial.cache_clear()
    yield
    engine.trial.cache_clear()


@pytest.mark.usefixtures("fresh_choice")
@pytest.mark.parametrize(
    "operator", [SimpleNamespace(), SimpleNamespace(default=absent), SimpleNamespace(default=wrong)]
)
@pytest.mark.parametrize("recorded", ["", "onednn"])
def test_without_onednn_products_mkl_is_taken(
    operator: object, recorded: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", operator)
    experiment = setup("mnist_fc")
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
    experiment = setup("mnist_conv")
    assert choose(experiment, build(experiment, 0), Settings()).settings == Settings(engine="plain")
    assert not recwarn.list


def test_choosing_leaves_model_and_random_numbers_as_they_are(small: Experiment) -> None:
    model, before = build(small, 0), build(small, 0)
    generator = torch.get_rng_state()
    step = choose(small, model, Settings())
    assert checkpoint.digest(model.state_dict()) == checkpoint.digest(before.state_dict())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(value.any() for value in step.state().values())


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("name", SETUPS)
def test_mixed_precision_is_near_float32_and_not_the_same(engine: str, name: str) -> None:
    experiment = setup(name)
    data = batches(experiment, 30)
    step = choose(experiment, build(experiment, 0), Settings(precision="mixed", engine=engine))
    fast = engine == "fast" and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # else the plain one takes its place
    assert step.settings.products == ("bfloat16" if fast else "")
    exact, mixed = costs_of(choose(experiment, build(experiment, 0), Settings()), data), costs_of(step, data)
    assert mixed == pytest.approx(exact, rel=1e-2)
    assert mixed != exact
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
    with pytest.raises(KeyboardInterrupt), engine.one_thread():
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
