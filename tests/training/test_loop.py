"""Training by other roads: the epoch's cost as the text computes it, streams, replay, evaluation, checkpoints."""

from pathlib import Path

import pytest
import torch

from repro.engine import Settings, Step, choose, losses, to_batch
from repro.model import VAE, build
from repro.model.objective import bernoulli_reconstruction, kl_to_standard_normal
from repro.rng import stream
from repro.spec import Data, Experiment
from repro.spec.overrides import apply
from repro.training import checkpoint, loop
from repro.training.checkpoint import CheckpointError

IMAGES = torch.randint(0, 256, (230, 28, 28, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def step_of(spec: Experiment, seed: int = 0) -> tuple[VAE, Step]:
    model = build(spec, seed)
    return model, choose(spec, model, Settings())


def trained(spec: Experiment, epochs: int, seed: int = 0) -> tuple[VAE, Step, list[float]]:
    model, step = step_of(spec, seed)
    return model, step, [loop.train_epoch(step, IMAGES, spec, seed, e).cost for e in range(1, epochs + 1)]


def test_the_epoch_cost_is_the_running_mean_of_the_costs_before_each_update(small: Experiment) -> None:
    """The text's loop, written out: Adam by its formulas, the cost taken in the step that also updates."""
    model = build(small, 0).double()
    moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()}
    order = torch.randperm(len(IMAGES), generator=stream("order", 0, 1))
    noise = torch.randn((1, len(IMAGES), 3), generator=stream("noise", 0, 1))[0].double()
    average = 0.0
    for step in range(2):
        chosen = slice(100 * step, 100 * step + 100)
        x = IMAGES[order[chosen]].double() / 255
        mean, log_variance = model.encode(x.permute(0, 3, 1, 2))
        (logits,) = model.decode(mean + (log_variance / 2).exp() * noise[chosen])
        cost = (
            bernoulli_reconstruction(logits, x.permute(0, 3, 1, 2)) + kl_to_standard_normal(mean, log_variance)
        ).mean()
        gradients = torch.autograd.grad(cost, list(model.parameters()))
        average += (cost.item() - average) / (step + 1)
        for p, g in zip(model.parameters(), gradients, strict=True):
            m, v = moments[p]
            m.mul_(0.9).add_(g, alpha=0.1)
            v.mul_(0.999).add_(g * g, alpha=0.001)
            t = step + 1
            p.data -= 1e-3 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    model32, _, costs = trained(small, 1)
    assert costs[0] == pytest.approx(average, rel=1e-6)
    torch.testing.assert_close(model32.mean_head.weight.double(), model.mean_head.weight, rtol=1e-4, atol=1e-6)


def test_an_epoch_can_be_replayed_from_seed_and_number_alone(small: Experiment) -> None:
    model, _, costs = trained(small, 2, seed=3)
    again, _, same = trained(small, 2, seed=3)
    assert costs == same
    assert checkpoint.digest(model.state_dict()) == checkpoint.digest(again.state_dict())
    assert trained(small, 2, seed=4)[2] != costs


def test_order_is_a_fresh_permutation_each_epoch_or_the_file_order() -> None:
    first, second = (loop.epoch_order(1000, Data("mnist"), 0, epoch) for epoch in (1, 2))
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert not torch.equal(first, second)
    assert torch.equal(loop.epoch_order(7, Data("mnist", shuffle=False), 0, 1), torch.arange(7))


def test_the_first_epoch_may_have_an_order_of_its_own() -> None:
    in_order = Data("mnist", first_epoch="file")
    assert torch.equal(loop.epoch_order(1000, in_order, 0, 1), torch.arange(1000))
    assert torch.equal(loop.epoch_order(1000, in_order, 0, 2), loop.epoch_order(1000, Data("mnist"), 0, 2))
    shuffled_once = Data("mnist", shuffle=False, first_epoch="shuffled")
    assert torch.equal(loop.epoch_order(1000, shuffled_once, 0, 1), loop.epoch_order(1000, Data("mnist"), 0, 1))
    assert torch.equal(loop.epoch_order(1000, shuffled_once, 0, 2), torch.arange(1000))


def test_noise_is_standard_normal_and_differs_by_epoch_and_seed(small: Experiment) -> None:
    noise = loop.epoch_noise(20_000, small, 0, 1)
    assert noise.shape == (1, 20_000, 3)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(noise[:, :9], loop.epoch_noise(9, small, 1, 1))
    assert stream("a", 1, 2).initial_seed() != stream("a", 12).initial_seed()


def test_more_samples_of_z_average_the_reconstruction(small: Experiment) -> None:
    model = build(apply(small, ["model.init=pytorch"]), 0)
    x = to_batch(IMAGES[:5])
    noise = torch.randn(4, 5, 3)
    reconstruction, kl = losses(model, x, noise)
    one_by_one = [losses(model, x, noise[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(reconstruction, torch.stack([r for r, _ in one_by_one]).mean(0))
    torch.testing.assert_close(kl, one_by_one[0][1])


def test_gaussian_likelihood_learns(small: Experiment) -> None:
    costs = trained(apply(small, ["model.likelihood=gaussian", "optim.lr=1e-2"]), 4)[2]
    assert costs[-1] < costs[0] - 100


def test_evaluation_is_the_mean_over_images_whatever_the_chunks(
    small: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, step = step_of(small)
    with torch.no_grad():
        model.log_variance_head.bias.fill_(-80)  # no noise, so that the draws cannot matter
    whole = loop.evaluate(step, IMAGES, torch.Generator())
    monkeypatch.setattr(loop, "EVALUATION_BATCH", 33)
    assert loop.evaluate(step, IMAGES, torch.Generator(), samples=2).cost == pytest.approx(whole.cost, rel=1e-6)


def test_a_cost_that_is_not_finite_stops_at_its_step(small: Experiment) -> None:
    spec = apply(small, ["optim.lr=1000", "model.activation=relu"])
    step, taken = step_of(spec)[1], []
    with pytest.raises(loop.NotFiniteError, match=r"epoch \d+, step \d+") as caught:
        for epoch in range(1, 50):
            taken.clear()
            loop.train_epoch(step, IMAGES, spec, 0, epoch, lambda: taken.append(1))
    assert f"epoch {epoch}, step {len(taken) + 1}:" in str(caught.value)


def test_a_checkpoint_goes_on_bit_for_bit(small: Experiment, tmp_path: Path) -> None:
    model, step, _ = trained(small, 1)
    path = checkpoint.save_state(checkpoint.snapshot(model, step.state(), small, 0, [{"cost": 0.1}]), tmp_path)
    expected = loop.train_epoch(step, IMAGES, small, 0, 2)

    other, other_step = step_of(small, 9)
    state = checkpoint.load_state(path, small.signature)
    other_step.load_state(checkpoint.restore(state, other))
    assert (state.epoch, state.seed, state.history) == (1, 0, [{"cost": 0.1}])
    assert loop.train_epoch(other_step, IMAGES, small, 0, 2) == expected
    assert checkpoint.digest(other.state_dict()) == checkpoint.digest(model.state_dict())


def test_two_checkpoints_are_kept_and_the_newest_sound_one_is_found(small: Experiment, tmp_path: Path) -> None:
    model, step = step_of(small)
    for epoch in range(1, 5):
        checkpoint.save_state(checkpoint.snapshot(model, step.state(), small, 0, [{}] * epoch), tmp_path)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["epoch-000003.safetensors", "epoch-000004.safetensors"]
    newest = tmp_path / "epoch-000004.safetensors"
    content = bytearray(newest.read_bytes())
    content[-5] ^= 4
    newest.write_bytes(content)
    state, faults = checkpoint.newest(tmp_path, small.signature, 0)
    assert state is not None
    assert state.epoch == 3
    assert "does not match its checksum" in faults[0]
    assert checkpoint.newest(tmp_path, "0" * 12, 0)[0] is None
    assert "is of seed 0, not of 4" in checkpoint.newest(tmp_path, small.signature, 4)[1][-1]


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_a_damaged_checkpoint_is_recognised(small: Experiment, tmp_path: Path, cut: int) -> None:
    model, step = step_of(small)
    path = checkpoint.save_state(checkpoint.snapshot(model, step.state(), small, 0, []), tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="epoch-000000"):
        checkpoint.load_state(path)
    path.write_text("<html>")
    with pytest.raises(CheckpointError):
        checkpoint.load_state(path)
