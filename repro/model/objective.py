"""The terms of the ELBO, in nats per image. Pure functions of tensors.

Formulas: Kingma and Welling (2014), "Auto-Encoding Variational Bayes", section 2.3, and appendix B for the KL. The
variance of q(z|x) is exp(log_variance).

The plain engine differentiates these functions. The fast engine has their values and gradients by hand
(`engine/fast/`), and must be changed with them; tests hold the two together.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def bernoulli_reconstruction(logits: Tensor, x: Tensor) -> Tensor:
    """-log p(x|z) of pixels x in [0, 1] under Bernoulli logits, nats per image. [B, ...], [B, ...] -> [B].

    For grey pixels it is a cross-entropy, at least the entropy of the pixels, and not a likelihood of binary data.
    """
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def gaussian_reconstruction(mean: Tensor, log_variance: Tensor, x: Tensor) -> Tensor:
    """-log p(x|z) of a diagonal Gaussian density, nats per image (may be negative). [B, ...] three times -> [B]."""
    squared = (x - mean).square() * torch.exp(-log_variance)
    return 0.5 * (math.log(2 * math.pi) + log_variance + squared).flatten(1).sum(1)


def reconstruction(parameters: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """-log p(x|z), nats per image, given what `VAE.decode` returns: (logits,) or (mean, log-variance).

    [B, ...] each -> [B].
    """
    if len(parameters) == 1:
        return bernoulli_reconstruction(parameters[0], x)
    return gaussian_reconstruction(parameters[0], parameters[1], x)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, I)) of a diagonal Gaussian q, nats per image, never negative. [B, D], [B, D] -> [B]."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)


def kl_as_printed(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The KL as the notebook prints it, nats per image. [B, D], [B, D] -> [B].

    It is correct for a variance of exp(2 * log_variance), but the notebook's own variance is exp(log_variance). It is
    here to measure the effect of this erratum. It can be negative: -0.077 per dimension where exp(2 * log_variance) is
    1/2.
    """
    return -0.5 * (1 + log_variance - mean.square() - (2 * log_variance).exp()).sum(1)


TRAINING_KL = {"closed_form": kl_to_standard_normal, "as_printed": kl_as_printed}
"""The KL that is trained, by the values of the setting `training.kl`. Evaluation always takes the closed form."""


def log_normal(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(z; mean, exp(log_variance)), diagonal, nats. [..., D] three times -> [...]."""
    squared = (z - mean).square() * torch.exp(-log_variance)
    return -0.5 * (math.log(2 * math.pi) + log_variance + squared).sum(-1)
