"""The ELBO's parts by other roads: torch.distributions, a model worked by hand, finite differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Normal, kl_divergence

from repro.model import VAE, objective


def gaussians(seed: int, batch: int = 7, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn((2, batch, width), generator=generator, dtype=torch.float64)
    return draw[0] * 2, draw[1] * 1.5


@given(st.integers(0, 2**32))
def test_kl_is_that_of_torch_distributions(seed: int) -> None:
    mean, log_variance = gaussians(seed)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(objective.kl_to_standard_normal(mean, log_variance), expected)
    assert (expected >= 0).all()


def test_kl_is_not_the_one_that_the_text_prints() -> None:
    mean, log_variance = gaussians(3)
    printed = -0.5 * (1 + log_variance - mean**2 - log_variance.exp() ** 2).sum(1)
    assert (objective.kl_to_standard_normal(mean, log_variance) - printed).abs().max() > 1


@given(st.integers(0, 2**32))
def test_bernoulli_reconstruction_is_minus_log_prob_on_black_and_white_pixels(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn((3, 1, 4, 4), generator=generator, dtype=torch.float64)
    x = (torch.rand((3, 1, 4, 4), generator=generator) > 0.5).double()
    expected = -Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(objective.bernoulli_reconstruction(logits, x), expected)


def test_bernoulli_reconstruction_of_grey_pixels_is_what_the_text_writes() -> None:
    y, x = torch.tensor([[0.2, 0.9]], dtype=torch.float64), torch.tensor([[0.25, 0.5]], dtype=torch.float64)
    expected = -sum(float(a * math.log(b) + (1 - a) * math.log(1 - b)) for a, b in zip(x[0], y[0], strict=True))
    assert objective.bernoulli_reconstruction(torch.logit(y), x).item() == pytest.approx(expected, rel=1e-12)


def test_bernoulli_reconstruction_survives_extreme_logits() -> None:
    logits = torch.tensor([[-200.0, 200.0]])
    assert objective.bernoulli_reconstruction(logits, torch.tensor([[0.0, 1.0]])).item() == 0.0
    assert objective.bernoulli_reconstruction(logits, torch.tensor([[1.0, 0.0]])).item() == 400.0


def test_gaussian_reconstruction_is_minus_log_prob() -> None:
    mean, log_variance = gaussians(1)
    x = torch.randn_like(mean)
    expected = -Normal(mean, (0.5 * log_variance).exp()).log_prob(x).sum(1)
    torch.testing.assert_close(objective.gaussian_reconstruction(mean, log_variance, x), expected)
    torch.testing.assert_close(objective.reconstruction((mean, log_variance), x), expected)


def test_a_model_of_two_pixels_by_hand() -> None:
    """One latent, q = N(0.6, 0.25), noise -0.2, so z = 0.5; logits 2z - 1 = 0 and -4z + 1 = -1; pixels 1 and 0.25."""
    mean, log_variance = torch.tensor([[0.6]]), torch.tensor([[math.log(0.25)]])
    z = VAE.sample(mean, log_variance, torch.tensor([[-0.2]]))
    assert z.item() == pytest.approx(0.5)
    logits = torch.cat([2 * z - 1, -4 * z + 1], dim=1)
    reconstruction = objective.bernoulli_reconstruction(logits, torch.tensor([[1.0, 0.25]]))
    # -log sigma(0) = log 2; for the second, log(1 + e^-1) + 0.25 * 1
    assert reconstruction.item() == pytest.approx(math.log(2) + math.log1p(math.exp(-1)) + 0.25, rel=1e-6)
    kl = objective.kl_to_standard_normal(mean, log_variance)
    assert kl.item() == pytest.approx(0.5 * (0.36 + 0.25 - 1 + math.log(4)), rel=1e-6)
    assert (reconstruction + kl).item() == pytest.approx(1.256408 + 0.498147, abs=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    mean, log_variance = (t.requires_grad_() for t in gaussians(2, 3, 4))
    noise = torch.randn((3, 4), dtype=torch.float64)
    x = torch.rand((3, 4), dtype=torch.float64)

    def bernoulli(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
        z = VAE.sample(mean, log_variance, noise)
        kl = objective.kl_to_standard_normal(mean, log_variance)
        return objective.bernoulli_reconstruction(3 * z - 1, x) + kl

    assert torch.autograd.gradcheck(bernoulli, (mean, log_variance))
    assert torch.autograd.gradcheck(lambda m, s: objective.gaussian_reconstruction(m, s, x), (mean, log_variance))
