"""How a training step is computed: fast with hand-written gradients on a CPU, captured on a GPU, or plain."""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from repro.engine.cuda import GraphStep
from repro.engine.fast import FastStep
from repro.engine.plain import PlainStep, losses, to_batch
from repro.engine.step import Engine, Precision, Settings, Step, Unsupported
from repro.model import VAE
from repro.spec import Experiment

__all__ = ["Engine", "Precision", "Settings", "Step", "Unsupported", "choose", "losses", "to_batch"]

TOLERANCE = {"float32": 1e-2, "mixed": 0.2}  # of a gradient's length, between two engines; of a cost a hundredth of it


def choose(experiment: Experiment, model: VAE, settings: Settings) -> Step:
    """The step that the settings ask for, or the plain one where that is not to be had; its `settings` say which.

    The fast step is taken where it covers the experiment and agrees with the plain one in a trial on this machine,
    whose torch may lack operators that it needs.
    """
    if settings.engine == "plain":
        return PlainStep(experiment, model, settings)
    if settings.device != "cpu":
        return GraphStep(experiment, model, settings)
    for products in dict.fromkeys((settings.products, "")):
        attempt = replace(settings, products=products)
        try:
            if _trial_succeeds(experiment, model, attempt):
                return FastStep(experiment, model, attempt)
        except (Unsupported, RuntimeError, AttributeError):  # as torch raises for operators that it lacks
            continue
    return PlainStep(experiment, model, settings)


def _trial_succeeds(experiment: Experiment, model: VAE, settings: Settings) -> bool:
    """One step of a copy of the model by either engine, with random images: do costs and gradients agree?"""
    shape, batch = experiment.data.shape, experiment.training.batch_size
    fast = FastStep(experiment, copy.deepcopy(model), settings)
    plain = PlainStep(experiment, copy.deepcopy(model), replace(settings, precision="float32"))
    generator = torch.Generator().manual_seed(0)
    size = (batch, shape.height, shape.width, shape.channels)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    noise = torch.randn((1, batch, model.latent), generator=generator)
    found, expected = (torch.stack(step.step(images, noise)).sum() for step in (fast, plain))
    moments, tolerance = fast.state(), TOLERANCE[settings.precision]
    agree = [_near(moments[name], value, tolerance) for name, value in plain.state().items()]
    return _near(found, expected, tolerance / 100) and all(agree)


def _near(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).norm() <= tolerance * expected.norm() + torch.finfo(torch.float32).tiny)
