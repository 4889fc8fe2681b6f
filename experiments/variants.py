"""What the results hinge on: each of these differs from one of the notebook's experiments in one factor.

python -m repro run mnist_fc_kl_as_printed
"""

from dataclasses import replace

from repro.experiments.cifar_conv import cifar_conv
from repro.experiments.mnist_conv import mnist_conv
from repro.experiments.mnist_fc import mnist_fc

from repro.registry import register
from repro.spec import Experiment


def variant(base: Experiment, of: str, **parts: dict[str, object]) -> Experiment:
    """`base` with some fields of some of its parts replaced, and without its reported results."""
    changed = {part: replace(getattr(base, part), **fields) for part, fields in parts.items()}
    return replace(base, reported=(), variant_of=of, **changed)


@register
def mnist_fc_pytorch_init() -> Experiment:
    """Initial weights as PyTorch's layers draw them, in place of a truncated normal of deviation 0.01."""
    return variant(mnist_fc(), "mnist_fc", model={"init": "pytorch"})


@register
def mnist_fc_kl_as_printed() -> Experiment:
    """Trained with the KL that the notebook prints, (e^s)^2 where its own variance is e^s."""
    return variant(mnist_fc(), "mnist_fc", training={"kl": "as_printed"})


@register
def mnist_fc_score_function() -> Experiment:
    """The encoder's gradient by the score function, which the notebook calls not practical."""
    return variant(mnist_fc(), "mnist_fc", training={"estimator": "score_function"})


@register
def mnist_fc_heldout_included() -> Experiment:
    """All 60,000 training images, the 5,000 of the validation split too."""
    return variant(mnist_fc(), "mnist_fc", data={"holdout": 0})


@register
def mnist_fc_gaussian() -> Experiment:
    """Gaussian pixels with a learnt variance: a density, whose cost is on a scale of its own."""
    return variant(mnist_fc(), "mnist_fc", model={"likelihood": "gaussian"})


@register
def mnist_fc_lr_1e4() -> Experiment:
    """The convolutional setups' learning rate."""
    return variant(mnist_fc(), "mnist_fc", optim={"lr": 1e-4})


@register
def mnist_fc_first_epoch_shuffled() -> Experiment:
    """The first epoch shuffled like the others; the original takes it in file order."""
    return variant(mnist_fc(), "mnist_fc", data={"first_epoch": None})


@register
def mnist_conv_pytorch_adam() -> Experiment:
    """Adam's epsilon where PyTorch adds it, at the root of the corrected second moment."""
    return variant(mnist_conv(), "mnist_conv", optim={"epsilon_at": "sqrt_corrected"})


@register
def cifar_conv_shuffled() -> Experiment:
    """A new order of the images in every epoch; the original never shuffles them."""
    return variant(cifar_conv(), "cifar_conv", data={"shuffle": True})
