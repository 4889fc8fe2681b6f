"""Measurements on models: by another road, and on cases whose answer is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from repro import data, spec
from repro.data import Dataset
from repro.engine import Settings
from repro.errors import ReproError, UsageError
from repro.evaluation import gradients, kl, latents, realism, spectrum
from repro.measurement import Measurement, Row
from repro.model import VAE, build
from repro.rng import stream
from repro.spec import Data, Dense, Experiment, Shape
from repro.spec.overrides import apply
from repro.training.trainer import Trainer


@pytest.fixture(scope="module")
def digits_data() -> Dataset:
    return data.load(Data("mnist", holdout=5000), "stand-in")


@pytest.fixture
def model(small: Experiment) -> VAE:
    return build(apply(small, ["model.init=pytorch"]), 0)


def value(found: Measurement | list[Row], quantity: str, group: str = "") -> Row:
    rows = found.rows if isinstance(found, Measurement) else found
    (row,) = [row for row in rows if (row.quantity, row.group) == (quantity, group)]
    return row


def as_batch(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2) / 255


def test_the_kl_is_that_of_torch_distributions_and_of_its_own_definition(model: VAE, digits_data: Dataset) -> None:
    images = digits_data.test[:50]
    with torch.no_grad():
        model.log_variance_head.bias.add_(torch.tensor([-2.0, 0.5, -4.0]))
        mean, log_variance = model.encode(as_batch(images))
    found = kl.formulas(model, images, draws=2000)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1).mean()
    assert value(found, "kl_closed_form").value == pytest.approx(float(expected), rel=1e-5)
    # log q - log p is a quadratic of the noise, whose variance is 1/2 (variance - 1)^2 + variance * mean^2
    variance = log_variance.exp()
    of_a_draw = (0.5 * (variance - 1) ** 2 + variance * mean**2).sum(1).mean()
    error = value(found, "kl_monte_carlo").standard_error
    assert error == pytest.approx(math.sqrt(float(of_a_draw) / (50 * 2000)), rel=0.05)
    assert abs(value(found, "kl_closed_form_deviation").value) < 3
    assert value(found, "kl_closed_form_image_deviation").value == pytest.approx(1, abs=0.3)
    assert abs(value(found, "kl_as_printed_deviation").value) > 20
    assert value(found, "kl_as_printed_image_deviation").value > 5
    assert kl.formulas(model, images, draws=2000).rows == found.rows
    assert value(kl.formulas(model, images, draws=2000, seed=1), "kl_monte_carlo") != value(found, "kl_monte_carlo")


def test_both_estimators_have_the_variance_that_is_known() -> None:
    """A reconstruction of b + w.z: one pixel of 0 under logits of 40, whose softplus is the logit itself."""
    tiny = VAE(spec.VAE(encoder=(), latent=2, decoder=(Dense(1),)), Shape(1, 1, 1))
    w, mean, log_variance, images, draws = torch.tensor([1.0, -3.0]), torch.tensor([0.3, -0.7]), [-1.0, 0.5], 4, 800
    with torch.no_grad():
        tiny.outputs[0][0].weight.copy_(w[None])
        tiny.outputs[0][0].bias.fill_(40.0)
        tiny.mean_head.bias.copy_(mean)
        tiny.log_variance_head.bias.copy_(torch.tensor(log_variance))
    sigma = torch.tensor(log_variance).mul(0.5).exp()
    a, c = w * sigma, 40.0 + w @ mean  # a reconstruction of c + a.noise
    of_mean = ((c**2 + a @ a + a**2) / sigma**2).sum()
    of_log_variance = (2 * c**2 + 2 * (a @ a) + 8 * a**2).sum() / 4
    known = {"pathwise": (a @ a) / 4 / images, "score function": (of_mean + of_log_variance) / images}
    blank = torch.zeros(images, 1, 1, 1, dtype=torch.uint8)
    exact = torch.tensor([0, 0, *w, 0, 0, 0, 0], dtype=torch.float64)  # weights, biases of the mean; of the variance
    for estimator in gradients.ESTIMATORS:
        found = gradients.moments(tiny, blank, estimator, draws, stream("test", 0))
        if estimator in known:
            assert found.variance == pytest.approx(float(known[estimator]), rel=0.15), estimator
        else:
            assert found.variance < float(known["score function"]) / 10
        assert float((found.mean - exact).square().sum()) < 6 * found.variance / draws, estimator


def test_all_estimators_have_the_mean_that_follows_from_a_linear_gaussian_decoder() -> None:
    torch.manual_seed(0)
    linear = VAE(spec.VAE((Dense(5),), 3, (Dense(4),), activation="tanh", likelihood="gaussian"), Shape(1, 2, 2))
    decoder, pixel_log_variance = linear.outputs[0][0], torch.tensor([-1.0, 0.0, 0.5, -0.5])
    with torch.no_grad():
        linear.outputs[1][0].weight.zero_()
        linear.outputs[1][0].bias.copy_(pixel_log_variance)
    images = torch.randint(0, 256, (10, 2, 2, 1), dtype=torch.uint8)
    mean, log_variance = linear.encode(as_batch(images))
    squared = (images.flatten(1) / 255 - decoder(mean)) ** 2 + log_variance.exp() @ (decoder.weight**2).T
    expected = 0.5 * (math.log(2 * math.pi) + pixel_log_variance + squared / pixel_log_variance.exp()).sum(1).mean()
    parameters = [p for name, p in linear.named_parameters() if "encoder" in name or "head" in name]
    exact = torch.cat([each.flatten() for each in torch.autograd.grad(expected, parameters)]).double()
    for estimator in gradients.ESTIMATORS:
        found = gradients.moments(linear, images, estimator, 400, stream("test", 1))
        off = float((found.mean - exact).square().sum()) / (found.variance / 400)
        assert off < 4, estimator
        assert float(exact.square().sum()) > 10 * off * found.variance / 400, estimator  # it is not all noise


def test_variance_is_measured_along_the_training(small: Experiment, digits_data: Dataset) -> None:
    trainer = Trainer(small, 0, digits_data, Settings(engine="plain"))
    told: list[str] = []
    found = gradients.over_training(trainer, trainer.model, epochs=(0, 1), batches=2, draws=20, tell=told.append)
    assert [row.x for row in found.rows if row.quantity == "gradient_variance_ratio"] == [0, 1, 2]
    assert (len(trainer.history), len(told)) == (1, 3)
    last = [replace(row, x=None) for row in found.rows if row.x == 2]
    assert last == [replace(row, x=None) for row in found.rows if row.x == 1]  # the same weights and noise
    assert value(last, "gradient_variance_ratio").value > 10
    assert value(last, "gradient_snr", "pathwise").value > value(last, "gradient_snr", "score function").value
    for estimator in gradients.ESTIMATORS[1:]:
        assert value(last, "gradient_difference", estimator).value == pytest.approx(1, abs=0.5)
        share = value(last, "gradient_projection", estimator)
        assert abs(share.value - 1) < 3 * float(share.standard_error or 0)


def test_a_biased_estimator_is_found_out(model: VAE, digits_data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def longer(*arguments: object) -> Tensor:
        return right(*arguments[:-1], "pathwise") * (1.0 if arguments[-1] == "pathwise" else 1.5)  # type: ignore[arg-type]

    right = gradients.surrogate
    monkeypatch.setattr(gradients, "surrogate", longer)
    rows = gradients.at(model, digits_data.train, 0, batches=2, draws=10)
    share = value(rows, "gradient_projection", "score function")
    assert share.value == pytest.approx(1.5, abs=0.1)
    assert share.value - 1 > 4 * float(share.standard_error or 0)
    assert value(rows, "gradient_difference", "score function").value > 2
    with torch.no_grad():
        model.outputs[0][0].weight.zero_()
    with pytest.raises(ReproError, match="nothing to compare"):
        gradients.at(model, digits_data.train, 0, batches=1, draws=2)


def test_white_noise_a_wave_and_a_flat_image_have_the_spectrum_that_is_known() -> None:
    noise = np.random.default_rng(0).normal(size=(400, 16, 16))
    power, frequency = spectrum.spectra(noise)
    share = spectrum.high_share(power, frequency)
    assert share.mean() == pytest.approx(np.mean(frequency[frequency > 0] > 0.5), abs=3 * share.std() / 20)
    assert power.sum() == pytest.approx(256 * ((noise - noise.mean((1, 2), keepdims=True)) ** 2).sum())
    rings = spectrum.radial(power, frequency)
    assert [x for x, _ in rings] == [cycles / 8 for cycles in range(1, 9)]
    assert [level for _, level in rings] == pytest.approx([1 / 255] * 8, rel=0.15)
    column = np.arange(16)
    for cycles, high in ((3, 0.0), (5, 1.0)):  # of 8, the Nyquist frequency
        wave = np.cos(2 * np.pi * cycles * column / 16)[None, None, :].repeat(16, axis=1)
        power, frequency = spectrum.spectra(wave)
        assert spectrum.high_share(power, frequency)[0] == pytest.approx(high, abs=1e-12)
        assert [x for x, level in spectrum.radial(power, frequency) if level > 1e-9] == [cycles / 8]
    assert spectrum.high_share(*spectrum.spectra(np.ones((1, 16, 16))))[0] == 0.0
    assert spectrum.luminance(np.full((2, 3, 4, 4), 0.5)) == pytest.approx(np.full((2, 4, 4), 0.5))


def test_neighbours_of_stripes_and_of_noise() -> None:
    noise = np.random.default_rng(1).normal(size=(5, 1, 40, 40))
    assert abs(spectrum.neighbours(noise)) < 0.05
    assert spectrum.neighbours(noise[..., :1].repeat(40, axis=3)) == pytest.approx(1.0)


def test_a_model_that_draws_one_grey_is_blurry(model: VAE, digits_data: Dataset) -> None:
    with torch.no_grad():
        for parameter in model.outputs.parameters():
            parameter.zero_()
    found = spectrum.blurriness(model, digits_data.test, 50)
    assert value(found, "high_frequency_ratio", "samples").value < 1e-9
    assert value(found, "high_frequency_share", "data").value > 0.001


def test_equal_sets_cannot_be_told_apart_and_unlike_ones_can(digits_data: Dataset) -> None:
    images = as_batch(digits_data.train[:800])
    even, odd = images[::2], images[1::2]
    same = realism.told_apart(even, odd)
    assert abs(same.value - 0.5) < 3 * float(same.standard_error or 0)
    assert realism.told_apart(even, odd * 0.5).value > 0.95


def test_digits_are_judged(model: VAE, digits_data: Dataset) -> None:
    found = realism.realism(model, digits_data, samples=200)
    assert value(found, "classifier_accuracy").value > 0.7
    assert value(found, "mean_confidence", "test digits").value > value(found, "mean_confidence", "mean image").value
    assert sum(row.value for row in found.rows if row.quantity == "share_of_samples") == pytest.approx(1.0)
    assert 0 <= value(found, "entropy_of_samples_classes").value <= math.log(10)
    assert value(found, "real_or_generated_accuracy").value > 0.9  # of an untrained model
    assert value(found, "real_or_generated_accuracy", "test digits").value < 0.75
    assert {sheet.shape for sheet in found.pictures.values()} == {(140, 280, 1)}


def test_a_judgement_depends_on_the_seed_alone(model: VAE, digits_data: Dataset) -> None:
    labels = digits_data.train_labels
    few = replace(digits_data, train=digits_data.train[:100], train_labels=None if labels is None else labels[:100])
    first, again, other = (realism.realism(model, few, samples=50, epochs=1, seed=seed).rows for seed in (0, 0, 1))
    assert first == again != other
    with pytest.raises(UsageError, match="labels of mnist"):
        realism.realism(model, replace(digits_data, train_labels=None))


def test_maps_of_the_latents_have_a_row_for_each_image_and_four_pictures(model: VAE, digits_data: Dataset) -> None:
    found = latents.maps(model, digits_data, mapped=100, embedded=50)
    assert digits_data.test_labels is not None
    of_class = {row.x: row.group for row in found.rows if row.quantity == "latent_pca_2"}
    assert of_class == {x: str(int(label)) for x, label in enumerate(digits_data.test_labels[:100])}
    with torch.no_grad():
        mean = model.encode(as_batch(digits_data.test[:100]))[0].double()
    pca = torch.tensor([row.value for row in found.rows if row.quantity == "latent_pca_1"])
    assert float(pca.var()) == pytest.approx(float(torch.linalg.eigvalsh(mean.T.cov())[-1]), rel=1e-4)
    assert len([row for row in found.rows if row.quantity == "latent_tsne_1"]) == 50
    assert found.pictures["walk"].shape == (8 * 28, 11 * 28, 1)
    assert found.pictures["traversals"].shape == (3 * 28, 11 * 28, 1)
    assert found.pictures["samples"].shape == found.pictures["originals_and_reconstructions"].shape == (280, 280, 1)
    assert np.array_equal(found.pictures["originals_and_reconstructions"][:28, :28], digits_data.test[0].numpy())
    again = latents.maps(model, digits_data, mapped=100, embedded=50)
    assert again.rows == found.rows
    assert all(np.array_equal(again.pictures[name], sheet) for name, sheet in found.pictures.items())


def test_maps_work_without_labels_and_for_a_single_latent_dimension(small: Experiment, digits_data: Dataset) -> None:
    single = build(apply(small, ["model.latent=1"]), 0)
    found = latents.maps(single, replace(digits_data, test_labels=None), mapped=40, embedded=20)
    assert {row.group for row in found.rows} == {"-"}
    assert {row.value for row in found.rows if row.quantity == "latent_pca_2"} == {0.0}


def test_a_walk_joins_images_of_different_classes(model: VAE, digits_data: Dataset) -> None:
    labels = digits_data.test_labels
    assert labels is not None
    place = torch.arange(len(labels)).float()[:, None]
    starts, ends = (found.flatten().long() for found in latents._pairs(digits_data, place, seed=0))
    assert (labels[starts] != labels[ends]).all()
    assert len(set(starts.tolist()) | set(ends.tolist())) == 16
    path = latents.walk(torch.zeros(2, 3), torch.ones(2, 3)).view(2, latents.STEPS, 3)
    assert torch.equal(path[:, 0], torch.zeros(2, 3))
    assert torch.equal(path[:, -1], torch.ones(2, 3))


def test_a_traversal_moves_one_dimension_the_most_active_first() -> None:
    mean = torch.tensor([[0.5, 0.5, 0.5], [0.1, 3.0, 1.0]])
    moved = latents.traversals(mean, torch.zeros_like(mean)).view(3, latents.STEPS, 3)
    assert moved[0, :, 1].tolist() == pytest.approx(np.linspace(-3, 3, latents.STEPS).tolist(), abs=1e-6)
    assert (moved[0][:, [0, 2]] == 0.5).all()
    assert (moved[1, :, 2].min(), moved[1, 0, 1]) == (-3, 0.5)
