"""Convolutional VAE on MNIST at a learning rate of 1e-3: 130.14 nats after 10 epochs in an earlier run.

python -m repro run mnist_conv_lr_1e3
"""

from dataclasses import replace

from repro.experiments.mnist_conv import mnist_conv

from repro.registry import register
from repro.spec import Adam, Experiment, Reported, Training


@register
def mnist_conv_lr_1e3() -> Experiment:
    """The fully connected experiment's learning rate, as in an earlier version of the notebook."""
    return replace(
        mnist_conv(),
        optim=Adam(lr=1e-3, epsilon_at="sqrt_uncorrected"),
        training=Training(epochs=10, batch_size=100),
        reported=(
            Reported(
                cost=130.142956571,
                epoch=10,
                margin=1.69,
                seeds=tuple(range(100, 120)),
                curve="reported/mnist_conv_lr_1e3.csv",
                source="Variational Autoencoder notebook, an earlier version, convolutional network on MNIST",
            ),
        ),
        variant_of="mnist_conv",
        sweep=None,
    )
