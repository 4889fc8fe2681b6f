"""-log p(x|z) of many draws of z for each image, without gradients."""

from collections.abc import Callable

import torch
from torch import Tensor

from repro.engine.fast.layers import Layer
from repro.engine.fast.memory import keep_freed_memory
from repro.engine.fast.network import layers_of
from repro.engine.fast.products import Mkl
from repro.model import VAE, objective

HALVINGS = 3  # products of eight sigmoids are at least 2**-8, far from underflow

Reconstructions = Callable[[Tensor, Tensor], Tensor]
"""Returns -log p(x|z), nats. Draws of z and pixels in [0, 1]: [N, L, D], [N, H, W, C] -> [N, L]."""


class Decoder:
    """A `Reconstructions` for batches of `rows` draws in all, N * L; it pads smaller ones.

    Raises Unsupported for a model that the layers do not cover, and what torch raises for missing operators.
    """

    def __init__(self, model: VAE, rows: int, products: Mkl) -> None:
        keep_freed_memory()
        self.padded = torch.zeros(rows, model.latent)
        self.body = layers_of(model.decoder, self.padded, products)
        with torch.no_grad():
            hidden = model.decoder(self.padded)
        self.outputs = [layers_of(output.children(), hidden, products) for output in model.outputs]

    @torch.no_grad()
    def __call__(self, z: Tensor, x: Tensor) -> Tensor:
        used = z.shape[0] * z.shape[1]
        self.padded[:used].copy_(z.flatten(0, 1))
        hidden = _through(self.body, self.padded)
        parameters = [_through(output, hidden).reshape(len(hidden), -1)[:used] for output in self.outputs]
        pixels = x.flatten(1)
        if len(parameters) == 1:
            return cross_entropies(parameters[0].view(*z.shape[:2], -1), pixels)
        repeated = pixels.repeat_interleave(z.shape[1], 0)
        return objective.gaussian_reconstruction(parameters[0], parameters[1], repeated).view(z.shape[:2])


def cross_entropies(logits: Tensor, x: Tensor) -> Tensor:
    """Return the Bernoulli cross-entropy, softplus(l) - x l, summed over pixels; overwrites the logits.

    [N, L, P], [N, P] -> [N, L]. softplus(l) - x l = |l| / 2 - (x - 1/2) l - log sigmoid(|l|): the middle term is a
    matrix product, and one logarithm serves a product of a few sigmoids, as in `network.cross_entropy`.
    """
    linear = torch.matmul(logits, (x - 0.5)[:, :, None])[..., 0]
    magnitude = logits.abs_()
    found = magnitude.sum(-1).mul_(0.5).sub_(linear)
    t = magnitude.sigmoid_()
    for _ in range(HALVINGS):
        if t.shape[-1] % 2 == 0:
            half = t.shape[-1] // 2
            t = t[..., :half].mul_(t[..., half:])
    return found.sub_(t.log_().sum(-1))


def _through(layers: list[Layer], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer.forward(x)
    return x
