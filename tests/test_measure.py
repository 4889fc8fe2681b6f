"""Measurements on models: by another road, and on cases whose answer is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from repro import data
from repro.data import Dataset
from repro.errors import UsageError
from repro.measure import digits, gradients, kl, latents, spectrum
from repro.measure.findings import Findings, Row
from repro.model import VAE, build
from repro.overrides import apply
from repro.spec import Data, Experiment
from repro.trainer import Trainer


@pytest.fixture(scope="module")
def digits_data() -> Dataset:
    return data.load(Data("mnist", holdout=5000), "stand-in")


@pytest.fixture
def model(small: Experiment) -> VAE:
    return build(apply(small, ["model.init=pytorch"]), 0)


def value(found: Findings | list[Row], quantity: str, group: str = "") -> Row:
    rows = found.rows if isinstance(found, Findings) else found
    (row,) = [row for row in rows if (row.quantity, row.group) == (quantity, group)]
    return row


def test_the_kl_is_that_of_torch_distributions_and_of_its_own_definition(model: VAE, digits_data: Dataset) -> None:
    with torch.no_grad():
        model.log_variance_head.bias.add_(torch.tensor([-2.0, 0.5, -4.0]))
        found = kl.closed_form(model, digits_data.test[:50], draws=2000)
        mean, log_variance = model.encode(digits_data.test[:50].float().div(255).permute(0, 3, 1, 2))
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1).mean()
    assert value(found, "kl_closed_form").value == pytest.approx(float(expected), rel=1e-5)
    estimate = value(found, "kl_monte_carlo")
    assert estimate.standard_error == pytest.approx(1.2 / math.sqrt(50 * 2000), rel=0.3)  # sd of a draw's, at D = 3
    assert abs(value(found, "kl_closed_form_deviation").value) < 4
    assert abs(value(found, "kl_as_printed_deviation").value) > 20


class Linear(nn.Module):
    """A decoder whose reconstruction term is w . z + c for every image, so that every gradient is known."""

    def __init__(self, encoder: VAE, weights: Tensor) -> None:
        super().__init__()
        self.vae, self.latent, self.weights = encoder, encoder.latent, weights
        self.encoder, self.mean_head, self.log_variance_head = (
            encoder.encoder,
            encoder.mean_head,
            encoder.log_variance_head,
        )
        self.encode, self.sample = encoder.encode, encoder.sample

    def decode(self, z: Tensor) -> tuple[Tensor, ...]:
        return ((z @ self.weights + 30.0).reshape(-1, 1, 1, 1),)


def test_both_estimators_have_the_gradient_that_is_known(
    model: VAE, digits_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients.objective, "reconstruction", lambda parameters, x: parameters[0].flatten())
    linear = Linear(model, torch.tensor([1.0, -2.0, 0.5]))
    images = digits_data.train[:20]
    found = {each: gradients.moments(linear, images, each, draws=400) for each in gradients.ESTIMATORS}  # type: ignore[arg-type]
    parameters = [*model.encoder.parameters(), *model.mean_head.parameters(), *model.log_variance_head.parameters()]
    mean, _ = model.encode(images.float().div(255).permute(0, 3, 1, 2))
    exact = torch.autograd.grad((mean @ linear.weights).mean(), parameters, allow_unused=True)
    flat = torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(exact, parameters, strict=True)]
    )
    for estimator, moments in found.items():
        off = float((moments.mean - flat.double()).square().sum())
        assert off < 4 * moments.variance / moments.draws, estimator
    assert found["score function"].variance > 100 * found["pathwise"].variance
    assert found["score function with a baseline"].variance < found["score function"].variance / 10


def test_variance_is_measured_along_the_training(small: Experiment, digits_data: Dataset) -> None:
    from repro.engine import Settings  # noqa: PLC0415

    trainer = Trainer(small, 0, digits_data, Settings(engine="plain"))
    found = gradients.over_training(trainer, trainer.model, 2, epochs=(0, 1), batches=2, draws=5)
    assert [row.x for row in found.rows if row.quantity == "gradient_variance_ratio"] == [0, 1, 2]
    assert len(trainer.history) == 1
    ratio = next(row for row in found.rows if row.quantity == "gradient_variance_ratio")
    assert ratio.value > 10


def test_white_noise_a_wave_and_a_flat_image_have_the_spectrum_that_is_known() -> None:
    noise = np.random.default_rng(0).normal(size=(400, 16, 16))
    power, frequency = spectrum.spectra(noise)
    share = spectrum.high_share(power, frequency)
    expected = np.mean(frequency[frequency > 0] > 0.5) * 255 / 255
    assert share.mean() == pytest.approx(expected, abs=3 * share.std() / 20)
    assert power.sum() == pytest.approx(256 * ((noise - noise.mean((1, 2), keepdims=True)) ** 2).sum())
    column = np.arange(16)
    for cycles, high in ((3, 0.0), (5, 1.0)):  # of 8, the Nyquist frequency
        wave = np.cos(2 * np.pi * cycles * column / 16)[None, None, :].repeat(16, axis=1)
        assert spectrum.high_share(*spectrum.spectra(wave))[0] == pytest.approx(high, abs=1e-12)
    assert spectrum.high_share(*spectrum.spectra(np.ones((1, 16, 16))))[0] == 0.0


def test_neighbours_of_stripes_and_of_noise() -> None:
    rows = np.random.default_rng(1).normal(size=(5, 1, 40, 1)).repeat(40, axis=3)
    assert spectrum.neighbours(rows) == pytest.approx(1.0)
    assert abs(spectrum.neighbours(np.random.default_rng(2).normal(size=(5, 1, 40, 40)))) < 0.05


def test_a_model_that_draws_one_grey_is_blurry(model: VAE, digits_data: Dataset) -> None:
    with torch.no_grad():
        for parameter in model.outputs.parameters():
            parameter.zero_()
    found = spectrum.blurriness(model, digits_data.test, 50)
    assert value(found, "high_frequency_ratio", "samples").value < 1e-9
    assert value(found, "high_frequency_share", "data").value > 0.001


def test_equal_sets_cannot_be_told_apart_and_unlike_ones_can(digits_data: Dataset) -> None:
    images = digits_data.train.float().div(255).permute(0, 3, 1, 2)
    even, odd = images[::2], images[1::2]
    same = digits.told_apart(even, odd, epochs=2)
    assert abs(same.value - 0.5) < 4 * float(same.standard_error or 0)
    assert digits.told_apart(even, odd * 0.5, epochs=2).value > 0.95


def test_digits_are_judged(model: VAE, digits_data: Dataset) -> None:
    found = digits.realism(model, digits_data, samples=200, epochs=3)
    assert value(found, "classifier_accuracy").value > 0.7
    assert value(found, "mean_confidence", "test digits").value > value(found, "mean_confidence", "mean image").value
    shares = [row.value for row in found.rows if row.quantity == "share_of_samples"]
    assert sum(shares) == pytest.approx(1.0)
    assert found.pictures["samples_least_confident"].shape == (140, 280, 1)
    again = digits.realism(model, digits_data, samples=200, epochs=3)
    assert again.rows == found.rows
    unlabelled = Dataset(**{**vars(digits_data), "train_labels": None})
    with pytest.raises(UsageError, match="labels of mnist"):
        digits.realism(model, unlabelled)


def test_a_portrait_of_the_latents(model: VAE, digits_data: Dataset) -> None:
    found = latents.portrait(model, digits_data, mapped=100)
    groups = {row.group for row in found.rows}
    assert groups <= set("0123456789")
    assert len([row for row in found.rows if row.quantity == "latent_pca_1"]) == 100
    assert found.pictures["walk"].shape == (8 * 28, 11 * 28, 1)
    assert found.pictures["traversals"].shape == (3 * 28, 11 * 28, 1)


def test_a_walk_begins_and_ends_where_it_should_and_a_traversal_moves_one_dimension() -> None:
    starts, ends = torch.zeros(2, 3), torch.ones(2, 3)
    path = latents.walk(starts, ends).view(2, latents.STEPS, 3)
    assert torch.equal(path[:, 0], starts)
    assert torch.equal(path[:, -1], ends)
    mean = torch.tensor([[0.5, 0.5, 0.5], [0.1, 3.0, 1.0]])
    moved = latents.traversals(mean, torch.zeros_like(mean)).view(3, latents.STEPS, 3)
    assert moved[0, :, 1].tolist() == pytest.approx(np.linspace(-3, 3, latents.STEPS).tolist())
    assert (moved[0][:, [0, 2]] == 0.5).all()
    assert (moved[1, :, 2].min(), moved[1, 0, 1]) == (-3, 0.5)
