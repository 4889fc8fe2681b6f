"""Other objectives and gradients that a variant may ask for: the KL as printed, the score function."""

import pytest
import torch
from support.steps import setup
from torch import Tensor
from torch.distributions import Normal

from repro.engine import Settings, Unsupported, choose
from repro.engine.fast import FastStep
from repro.engine.plain import PlainStep, losses, training_losses
from repro.model import VAE, build, objective
from repro.spec import Experiment, registry
from repro.spec.overrides import apply


@pytest.fixture
def batch(small: Experiment) -> tuple[VAE, Tensor, Tensor]:
    """A model with weights that matter, a batch, and its noise, in float64."""
    generator = torch.Generator().manual_seed(5)
    model = build(apply(small, ["model.init=pytorch"]), 0).double()
    x = torch.rand((6, 1, 28, 28), generator=generator, dtype=torch.float64)
    return model, x, torch.randn((2, 6, 3), generator=generator, dtype=torch.float64)


def gradients(value: Tensor, model: VAE) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(value, list(named.values()), retain_graph=True), strict=True))


def test_the_printed_kl_is_the_closed_form_of_twice_the_log_variance_and_half_of_it() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn((2, 7, 5), generator=generator, dtype=torch.float64)
    expected = objective.kl_to_standard_normal(mean, 2 * log_variance) + 0.5 * log_variance.sum(1)
    torch.testing.assert_close(objective.kl_as_printed(mean, log_variance), expected)


def test_log_normal_is_that_of_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(1)
    z, mean, log_variance = torch.randn((3, 4, 7, 5), generator=generator, dtype=torch.float64)
    expected = Normal(mean, (0.5 * log_variance).exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(objective.log_normal(z, mean, log_variance), expected)


def test_the_usual_training_differentiates_the_negative_elbo(
    small: Experiment, batch: tuple[VAE, Tensor, Tensor]
) -> None:
    model, x, noise = batch
    reconstruction, kl, differentiated = training_losses(model, x, noise, small.training)
    for mine, usual in zip((reconstruction, kl), losses(model, x, noise), strict=True):
        torch.testing.assert_close(mine, usual)
    torch.testing.assert_close(differentiated, reconstruction + kl)


def test_the_score_function_has_the_decoders_gradient_and_weighs_that_of_log_q(
    small: Experiment, batch: tuple[VAE, Tensor, Tensor]
) -> None:
    model, x, noise = batch
    training = apply(small, ["training.estimator=score_function"]).training
    differentiated = training_losses(model, x, noise, training)[2]
    found = gradients(differentiated.sum(), model)
    usual = gradients(sum(losses(model, x, noise)).sum(), model)
    mean, log_variance = model.encode(x)
    z = model.sample(mean, log_variance, noise).detach()
    log_q = Normal(mean, (0.5 * log_variance).exp()).log_prob(z).sum(-1)
    costs = torch.stack([objective.reconstruction(model.decode(each), x).detach() for each in z])
    by_hand = (costs * log_q).mean(0).sum() + objective.kl_to_standard_normal(mean, log_variance).sum()
    encoder = [name for name in found if not name.startswith(("decoder", "outputs"))]
    named = dict(model.named_parameters())
    expected = torch.autograd.grad(by_hand, [named[name] for name in encoder])
    for name, value in zip(encoder, expected, strict=True):
        torch.testing.assert_close(found[name], value)
        assert not torch.allclose(found[name], usual[name], rtol=1e-3), "the two estimators differ for one draw"
    for name in set(found) - set(encoder):
        torch.testing.assert_close(found[name], usual[name])


def test_the_two_estimators_agree_on_average(small: Experiment, batch: tuple[VAE, Tensor, Tensor]) -> None:
    model, x, _ = batch
    with torch.no_grad():
        model.log_variance_head.bias.fill_(-2.0)
    half = torch.randn((8_000, 1, 3), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    noise = torch.cat([half, -half])  # so that the large constant part of the cost cancels, which has mean zero
    means = []
    for estimator in ("pathwise", "score_function"):
        training = apply(small, [f"training.estimator={estimator}"]).training
        _, kl, differentiated = training_losses(model, x[:1], noise, training)
        means.append(torch.autograd.grad((differentiated - kl).sum(), model.mean_head.bias)[0])
    torch.testing.assert_close(means[1], means[0], rtol=0.1, atol=0.1 * float(means[0].norm()))


def test_the_fast_step_covers_the_printed_kl() -> None:
    experiment = setup("mnist_fc_kl_as_printed")
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (20, 20, 28, 28, 1), generator=generator, dtype=torch.uint8)
    noise = torch.randn((20, 1, 20, 20), generator=generator)
    steps = (
        FastStep(experiment, build(experiment, 0), Settings()),
        PlainStep(experiment, build(experiment, 0), Settings()),
    )
    fast, plain = (torch.tensor([step.step(*each) for each in zip(images, noise, strict=True)]) for step in steps)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
    other = setup("mnist_fc")
    usual = PlainStep(other, build(other, 0), Settings())
    unlike = torch.tensor([usual.step(*each) for each in zip(images, noise, strict=True)])
    assert (unlike[-1] - plain[-1]).abs().max() > 1e-3


def test_the_score_function_is_left_to_the_plain_step() -> None:
    experiment = registry.get("mnist_fc_score_function").spec
    with pytest.raises(Unsupported, match="pathwise"):
        FastStep(experiment, build(experiment, 0), Settings())
    assert choose(experiment, build(experiment, 0), Settings()).settings.engine == "plain"
