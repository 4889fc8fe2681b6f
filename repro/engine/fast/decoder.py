"""-log p(x|z) of many draws of z for each image, without gradients."""

from collections.abc import Callable

import torch
from torch import Tensor

from repro.engine.fast.layers import Layer
from repro.engine.fast.memory import keep_freed_memory
from repro.engine.fast.network import cross_entropy, layers_of
from repro.engine.fast.products import Mkl
from repro.model import VAE, objective

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
            return cross_entropy(parameters[0].view(*z.shape[:2], -1), pixels[:, None])
        repeated = pixels.repeat_interleave(z.shape[1], 0)
        return objective.gaussian_reconstruction(parameters[0], parameters[1], repeated).view(z.shape[:2])


def _through(layers: list[Layer], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer.forward(x)
    return x
