"""How a training step is computed: fast with hand-written gradients on a CPU, captured on a GPU, or plain."""

import functools
from dataclasses import replace

import torch

from repro.engine.cuda_graph import GraphStep
from repro.engine.fast import FastStep
from repro.engine.plain import PlainStep, losses, to_batch
from repro.engine.products import one_thread, products_for
from repro.engine.step import Engine, Precision, Settings, Step, Unsupported
from repro.model import VAE, build
from repro.spec import Adam, Experiment

__all__ = ["Engine", "Precision", "Settings", "Step", "Unsupported", "choose", "losses", "resolve", "to_batch"]

TOLERANCE = {"float32": 1e-2, "mixed": 0.2}  # of a gradient's length, between two engines; of a cost a hundredth of it


def resolve(experiment: Experiment, settings: Settings) -> Settings:
    """What the settings come to here: the fast engine with its products if they are to be had, or else the plain one.

    The fast one is taken where it covers the experiment and agrees with the plain one in a trial on this machine,
    whose torch may lack operators that it needs.
    """
    if settings.engine == "plain":
        return replace(settings, products="")
    if settings.device != "cpu":
        return replace(settings, engine="fast", products="")
    for wanted in dict.fromkeys((settings.products, "")):
        try:
            products = products_for(wanted, settings.precision).name  # by name, so that one trial answers for both
            return trial(_alike(experiment), replace(settings, engine="fast", products=products))
        except (Unsupported, RuntimeError, AttributeError):  # as torch raises for operators that it lacks
            continue
    return replace(settings, engine="plain", products="")


def choose(experiment: Experiment, model: VAE, settings: Settings) -> Step:
    """The step that the settings ask for, or the plain one where that is not to be had; its `settings` say which."""
    resolved = resolve(experiment, settings)
    if resolved.engine == "plain":
        return PlainStep(experiment, model, resolved)
    return (FastStep if resolved.device == "cpu" else GraphStep)(experiment, model, resolved)


def _alike(experiment: Experiment) -> Experiment:
    """One experiment for all that are alike in a step's gradients."""
    training = replace(experiment.training, epochs=1)
    return replace(experiment, optim=Adam(lr=1e-3), training=training, reported=(), variant_of=None)


@functools.lru_cache(maxsize=64)
def trial(experiment: Experiment, settings: Settings) -> Settings:
    """The fast step's settings, if costs and gradients of one step agree with the plain one's; raises if not."""
    shape, batch = experiment.data.shape, experiment.training.batch_size
    generator = torch.Generator().manual_seed(0)
    size = (batch, shape.height, shape.width, shape.channels)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    noise = torch.randn((1, batch, experiment.model.latent), generator=generator)
    with one_thread():
        fast = FastStep(experiment, build(experiment, 0), settings)
        plain = PlainStep(experiment, build(experiment, 0), Settings())
        cost, expected = (torch.stack(step.step(images, noise)).sum() for step in (fast, plain))
    pairs = [(fast.state()[name], value) for name, value in plain.state().items() if name.endswith("/exp_avg")]
    tolerance, whole = TOLERANCE[settings.precision], torch.stack([exact.norm() for _, exact in pairs]).norm()
    near = [(a - b).norm() <= tolerance * (b.norm() + whole / 1000) for a, b in pairs]  # after one step: of gradients
    if not (all(near) and (cost - expected).abs() <= tolerance / 100 * expected.abs()):
        raise Unsupported("the fast step and the plain one disagree on this machine")
    return fast.settings
