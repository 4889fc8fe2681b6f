"""Bounds and measurements of a trained model against closed forms, and by hand."""

import math
from typing import Literal

import pytest
import torch

from repro import evaluation, spec
from repro.data import Dataset, load
from repro.errors import UsageError
from repro.evaluation import bounds, likelihood
from repro.evaluation.bounds import bound, estimates, log_px
from repro.model import VAE, objective
from repro.spec import Dense, Shape

SHAPE, PIXELS, LATENT, NOISE = Shape(1, 2, 3), 6, 2, 0.3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bytes_of(images: int) -> torch.Tensor:
    return torch.randint(0, 256, (images, 2, 3, 1), dtype=torch.uint8, generator=generator(1))


@torch.no_grad()
def linear_gaussian(widened: float = 0.0, moved: float = 0.0) -> tuple[VAE, torch.distributions.Distribution]:
    """p(x|z) = N(Wz + b, s^2 I) with orthogonal columns W, so that its posterior is diagonal, and p(x) in closed form.

    q is the exact posterior if its log-variance is not `widened` nor its mean `moved`.
    """
    model = VAE(spec.VAE((), LATENT, (Dense(PIXELS),), likelihood="gaussian"), SHAPE)
    weights = torch.linalg.qr(torch.randn((PIXELS, LATENT), generator=generator(2)))[0] * torch.tensor([0.8, 0.4])
    offset = torch.full((PIXELS,), 0.5)
    variance = 1 / (1 + weights.square().sum(0) / NOISE**2)
    to_mean = variance[:, None] * weights.T / NOISE**2
    for layer, weight, bias in (
        (model.outputs[0][0], weights, offset),
        (model.outputs[1][0], torch.zeros_like(weights), torch.full((PIXELS,), 2 * math.log(NOISE))),
        (model.mean_head, to_mean, moved - to_mean @ offset),
        (model.log_variance_head, torch.zeros((LATENT, PIXELS)), variance.log() + widened),
    ):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    w, eye = weights.double(), torch.eye(PIXELS, dtype=torch.float64)
    return model, torch.distributions.MultivariateNormal(offset.double(), w @ w.T + NOISE**2 * eye)


def exact(p: torch.distributions.Distribution, images: torch.Tensor) -> torch.Tensor:
    return p.log_prob(images.double().flatten(1) / 255)


def test_with_the_exact_posterior_every_weight_is_p_of_x() -> None:
    model, p = linear_gaussian()
    found = log_px(model, bytes_of(20), 100, generator())
    torch.testing.assert_close(found.value, exact(p, bytes_of(20)), atol=1e-4, rtol=0)
    assert found.standard_error.max() < 1e-5
    torch.testing.assert_close(found.by_tenths, found.value, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.effective, torch.full((20,), 100.0, dtype=torch.float64))
    assert (bound(model, bytes_of(20), 2000, generator()).neg_elbo + found.value).abs().max() < 0.2, "a tight bound"


def test_with_another_q_the_estimate_is_off_by_what_its_standard_error_says() -> None:
    model, p = linear_gaussian(widened=0.7, moved=0.1)
    images = bytes_of(30)
    tries = [log_px(model, images, 400, generator(seed)) for seed in range(40)]
    values = torch.stack([each.value for each in tries])
    claimed = torch.stack([each.standard_error for each in tries]).square().mean().sqrt()
    assert float(claimed) > 0.01
    assert float((values - exact(p, images)).square().mean().sqrt() / claimed) == pytest.approx(1, abs=0.1)
    assert all(each.effective.max() < 400 for each in tries)


def test_the_bound_rises_with_k_and_stays_below_log_p() -> None:
    model, p = linear_gaussian(widened=1.0, moved=0.5)
    images = bytes_of(300)
    elbo = -bound(model, images, 100, generator()).neg_elbo.mean()
    by_tenths = log_px(model, images, 300, generator(7)).by_tenths.mean()
    assert by_tenths == pytest.approx(float(log_px(model, images, 30, generator()).value.mean()), abs=0.02)
    rising = [elbo, *(log_px(model, images, k, generator()).value.mean() for k in (3, 30, 3000))]
    assert rising == sorted(rising)
    assert rising[-2] < exact(p, images).mean()
    assert rising[-1] == pytest.approx(float(exact(p, images).mean()), abs=0.02)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_what_fits_into_memory_does_not_change_the_result(likelihood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "BLOCK", 64)  # several blocks of noise for each image
    model = VAE(spec.VAE((Dense(5),), LATENT, (Dense(5), Dense(PIXELS)), likelihood=likelihood), SHAPE)
    assert bounds.draws_in(1, model) == 1
    assert 100 < bounds.draws_in(2**16, model) < bounds.draws_in(2**20, model)
    for measure in (log_px, bound):
        small, large = (measure(model, bytes_of(3), 150, generator(), memory) for memory in (2**12, 2**30))
        for one, other in zip(vars(small).values(), vars(large).values(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


def test_estimates_survive_weights_that_no_float_can_hold() -> None:
    found = estimates(torch.tensor([[-2000.0, 900.0], [-2001.0, 901.0], [-3000.0, 900.0]], dtype=torch.float64))
    assert found.by_tenths.tolist() == pytest.approx([-7001 / 3, 2701 / 3])
    first = [-2000 + math.log((1 + math.exp(-1)) / 3), 900 + math.log((2 + math.e) / 3)]
    assert found.value.tolist() == pytest.approx(first, rel=1e-14)
    assert float(found.effective[0]) == pytest.approx((1 + math.exp(-1)) ** 2 / (1 + math.exp(-2)))
    weights = torch.tensor([1, math.e, 1], dtype=torch.float64)
    relative = float(weights.std() / math.sqrt(3) / weights.mean())
    assert float(found.standard_error[1]) == pytest.approx(relative)


def test_the_entropy_floor_by_hand() -> None:
    images = torch.tensor([[0, 255, 51, 51], [255, 0, 0, 204]], dtype=torch.uint8).view(2, 2, 2, 1)
    fifth = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert likelihood.entropy_floor(images) == pytest.approx(3 * fifth / 2, rel=1e-14)
    assert likelihood.image_entropies(images).tolist() == pytest.approx([2 * fifth, fifth], rel=1e-14)


def a_dataset(train: int = 40, heldout: int = 0, name: str = "mnist") -> Dataset:
    test = bytes_of(200)
    return Dataset(name, "a test", "stand-in", "", bytes_of(train), bytes_of(heldout) if heldout else test, test)


@torch.no_grad()
def test_active_units_and_the_kl_of_each_dimension() -> None:
    model = VAE(spec.VAE((), 3, (Dense(PIXELS),)), SHAPE)
    pixel = (a_dataset().test.double().flatten(1) / 255)[:, 0]
    model.mean_head.weight.zero_()
    model.mean_head.weight[:, 0] = (torch.tensor([0.0, 0.0099, 0.0101]) / pixel.var()).sqrt()
    rows = likelihood.evaluate(model, a_dataset(), likelihood.Options(20, 5, 30, ((0, 9),))).rows
    one = {(row.quantity, row.group): row.value for row in rows if row.x is None}
    assert one["active_units", ""] == 1
    variances = [row.value for row in rows if row.quantity == "variance_of_mean"]
    assert variances == pytest.approx([0, 0.0099, 0.0101], rel=1e-4)
    kl = [row.value for row in rows if row.quantity == "kl_of_dimension"]
    x = a_dataset().test.permute(0, 3, 1, 2) / 255
    assert sum(kl) == pytest.approx(one["test_kl_many", ""])
    assert sum(kl) == pytest.approx(float(objective.kl_to_standard_normal(*model.encode(x)).mean()), rel=1e-5)
    assert one["test_excess_over_floor", ""] > 0
    named, other, every = (one["train_neg_elbo", group] for group in ("named images", "other images", "all"))
    assert every == pytest.approx((10 * named + 30 * other) / 40)
    assert one["entropy_floor", "all"] == pytest.approx(one["entropy_floor", "train"])
    assert one["test_log_px", ""] > -one["test_neg_elbo_many", "images of log p(x)"]


def test_ranges_are_parsed_or_refused() -> None:
    assert evaluation.parse_ranges("0-3,7") == ((0, 3), (7, 7))
    for wrong in ("a-b", "3-1", "-1", "1,,2", "1-2-3", "٣"):
        with pytest.raises(UsageError, match="--only"):
            evaluation.parse_ranges(wrong)


def test_ranges_name_training_images_by_their_index_in_the_file() -> None:
    held_out_first, held_out_last = a_dataset(10, heldout=10), a_dataset(10, heldout=10, name="cifar10")
    for dataset, ranges in ((held_out_first, ((12, 13), (15, 15))), (held_out_last, ((2, 3), (5, 5)))):
        assert likelihood.named_images(ranges, dataset).nonzero().flatten().tolist() == [2, 3, 5]
    assert likelihood.named_images(((0, 0),), a_dataset(3)).tolist() == [True, False, False]
    with pytest.raises(UsageError, match="from 10 to 19; those before 10 are held out"):
        likelihood.named_images(((9, 12),), held_out_first)
    with pytest.raises(UsageError, match="from 0 to 9; those after 9 are held out"):
        likelihood.named_images(((8, 12),), held_out_last)
    with pytest.raises(UsageError, match=r"from 0 to 9$"):
        likelihood.named_images(((10, 10),), a_dataset(10, name="cifar10"))
    with pytest.raises(UsageError, match="names all"):
        likelihood.named_images(((0, 9),), a_dataset(10))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_ranges_name_the_image_that_has_this_index_without_a_holdout(name: Literal["mnist", "cifar10"]) -> None:
    whole, split = (load(spec.Data(name, holdout=holdout), "stand-in") for holdout in (0, 5000))
    index = len(whole.train) // 2
    (chosen,) = split.train[likelihood.named_images(((index, index),), split)]
    assert torch.equal(chosen, whole.train[index])
