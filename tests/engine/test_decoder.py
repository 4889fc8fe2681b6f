"""-log p(x|z) by the fast decoder, against the plain modules in float64."""

import copy

import pytest
import torch

from repro import engine, spec
from repro.engine.fast.decoder import Decoder
from repro.model import VAE, objective
from repro.spec import Conv, Dense, Layer, MeanPool, Reshape, Shape, TConv

IMAGE = Shape(3, 8, 12)
DECODERS: dict[str, tuple[Layer, ...]] = {
    "dense": (Dense(70), Dense(80), Dense(IMAGE.channels * IMAGE.height * IMAGE.width)),
    "one layer": (Dense(IMAGE.channels * IMAGE.height * IMAGE.width),),
    "transposed": (Dense(2 * 3 * 16), Reshape(16, 2, 3), TConv(3, channels=8), TConv(3, channels=3)),
    "convolution": (Dense(8 * 12 * 4), Reshape(4, 8, 12), Conv(5, channels=3)),
}


def a_model(decoder: tuple[Layer, ...], likelihood: str = "bernoulli", spread: float = 0.2) -> VAE:
    torch.manual_seed(3)
    model = VAE(spec.VAE((MeanPool(4),), 5, decoder, activation="softplus", likelihood=likelihood), IMAGE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=spread)
    return model


@torch.no_grad()
def naive(model: VAE, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    exact, pixels = copy.deepcopy(model).double(), x.double().permute(0, 3, 1, 2)
    rows = [
        objective.reconstruction(exact.decode(draws.double()), image.expand(len(draws), *image.shape))
        for draws, image in zip(z, pixels, strict=True)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_the_fast_decoder_agrees_with_the_plain_one_in_float64(decoder: str, likelihood: str) -> None:
    model = a_model(DECODERS[decoder], likelihood)
    decode = engine.choose_decoder(model, 40)
    assert isinstance(decode, Decoder), "the plain decoder would agree, too"
    for images, draws in ((1, 40), (4, 10), (3, 7), (1, 1)):  # full batches, and padded ones
        z, x = torch.randn(images, draws, model.latent), torch.rand(images, IMAGE.height, IMAGE.width, IMAGE.channels)
        torch.testing.assert_close(decode(z, x).double(), naive(model, z, x), rtol=2e-6, atol=1e-4)


def test_a_model_that_the_fast_layers_do_not_cover_is_decoded_by_its_modules() -> None:
    model = a_model((Dense(4 * 6), Reshape(1, 4, 6), TConv(1, channels=3)))
    z, x = torch.randn(2, 5, model.latent), torch.rand(2, IMAGE.height, IMAGE.width, IMAGE.channels)
    decode = engine.choose_decoder(model, 10)
    assert not isinstance(decode, Decoder)
    torch.testing.assert_close(decode(z, x).double(), naive(model, z, x), rtol=2e-6, atol=1e-4)


def test_the_same_draws_have_the_same_bits() -> None:
    model = a_model(DECODERS["transposed"])
    z, x = torch.randn(1, 40, model.latent), torch.rand(1, IMAGE.height, IMAGE.width, IMAGE.channels)
    first, second = (engine.choose_decoder(model, 40)(z, x) for _ in range(2))
    assert torch.equal(first, second)
