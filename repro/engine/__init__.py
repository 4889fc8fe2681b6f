"""How a training step is computed: hand-written gradients on a CPU, a CUDA graph on a GPU, or plain autograd."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from repro.engine.cuda_graph import GraphStep
from repro.engine.fast import FastStep
from repro.engine.fast.decoder import Decoder, Reconstructions
from repro.engine.fast.products import USUAL, products_for
from repro.engine.plain import PlainStep, losses, reconstructions, to_batch
from repro.engine.step import Engine, Precision, Settings, Step, Unsupported
from repro.model import VAE, build
from repro.spec import Adam, Experiment

__all__ = [
    "Engine", "Precision", "Reconstructions", "Settings", "Step", "Unsupported",
    "choose", "choose_decoder", "losses", "resolve", "to_batch",
]  # fmt: skip

TOLERANCE = {"float32": 1e-2, "mixed": 0.2}
"""Largest relative difference of a gradient between two engines; of a cost it is a hundredth of this."""
TRIAL_DRAWS = 16
DECODER_TOLERANCE = 1e-4
"""Largest relative difference of -log p(x|z) between the two decoders."""


def resolve(experiment: Experiment, settings: Settings) -> Settings:
    """Return the settings with the engine and the products that this machine uses for them.

    The fast engine is used if it covers the experiment and agrees with the plain one in a trial step on this machine,
    whose torch may lack operators that the fast engine needs.
    """
    if settings.engine == "plain":
        return replace(settings, products="")
    if settings.device != "cpu":
        return replace(settings, engine="fast", products="")
    usual = USUAL[settings.precision]
    for products in dict.fromkeys((settings.products or usual, usual, "mkl")):
        try:
            return trial(_same_gradients(experiment), replace(settings, engine="fast", products=products))
        except (Unsupported, RuntimeError, AttributeError):  # what torch raises for operators that it lacks
            continue
    return replace(settings, engine="plain", products="")


def choose(experiment: Experiment, model: VAE, settings: Settings) -> Step:
    """Return the step for the settings, or the plain step if there is none; its `settings` say which."""
    resolved = resolve(experiment, settings)
    if resolved.engine == "plain":
        return PlainStep(experiment, model, resolved)
    return (FastStep if resolved.device == "cpu" else GraphStep)(experiment, model, resolved)


def choose_decoder(model: VAE, rows: int) -> Reconstructions:
    """Return how -log p(x|z) of `rows` draws of z at a time is computed on this machine, N * L at most.

    The fast decoder is used if it covers the model, which is on the CPU, and agrees with the plain one.
    """

    def plain(z: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            return reconstructions(model, z.transpose(0, 1), x.permute(0, 3, 1, 2)).T

    generator = torch.Generator().manual_seed(0)
    z = torch.randn((1, min(rows, TRIAL_DRAWS), model.latent), generator=generator)
    channels, height, width = model.image
    x = torch.rand((1, height, width, channels), generator=generator)
    expected = plain(z, x)
    for products in (USUAL["float32"], "mkl"):
        try:
            fast = Decoder(model, rows, products_for(products, "float32"))
            if (fast(z, x) - expected).norm() <= DECODER_TOLERANCE * expected.norm():
                return fast
        except (Unsupported, RuntimeError, AttributeError):
            continue
    return plain


@functools.lru_cache(maxsize=64)
def trial(experiment: Experiment, settings: Settings) -> Settings:
    """Return the fast step's settings if its cost and gradients of one step agree with the plain step's.

    Raises Unsupported if they do not, and what torch raises for missing operators.
    """
    shape, batch = experiment.data.shape, experiment.training.batch_size
    generator = torch.Generator().manual_seed(0)
    size = (batch, shape.height, shape.width, shape.channels)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    noise = torch.randn((1, batch, experiment.model.latent), generator=generator)
    with one_thread():
        fast = FastStep(experiment, build(experiment, 0), settings)
        plain = PlainStep(experiment, build(experiment, 0), Settings())
        cost, expected = (torch.stack(step.step(images, noise)).sum() for step in (fast, plain))
    tolerance = TOLERANCE[settings.precision]
    if not ((cost - expected).abs() <= tolerance / 100 * expected.abs() and _same_moments(fast, plain, tolerance)):
        raise Unsupported("the fast step and the plain step disagree on this machine")
    return fast.settings


def _same_gradients(experiment: Experiment) -> Experiment:
    """Return one experiment for all whose gradients are computed alike, as the key of the cache of trials."""
    training = replace(experiment.training, epochs=1)
    return replace(experiment, optim=Adam(lr=1e-3), training=training, reported=(), variant_of=None)


def _same_moments(fast: Step, plain: Step, tolerance: float) -> bool:
    """Whether Adam's first moments agree. After one step they are multiples of the gradients."""
    pairs = [(fast.state()[name], value) for name, value in plain.state().items() if name.endswith("/exp_avg")]
    whole = torch.stack([exact.norm() for _, exact in pairs]).norm()
    return all((found - exact).norm() <= tolerance * (exact.norm() + whole / 1000) for found, exact in pairs)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread in the block, so that its result does not depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
