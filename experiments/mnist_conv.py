"""Convolutional VAE on MNIST: 99.20 nats after 150 epochs.

python -m repro run mnist_conv
"""

from repro.registry import register
from repro.spec import (
    VAE,
    Adam,
    Choice,
    Conv,
    Data,
    Dense,
    Experiment,
    LogUniform,
    MeanPool,
    Reported,
    Reshape,
    TConv,
    Training,
)


@register
def mnist_conv() -> Experiment:
    """The notebook's second experiment."""
    return Experiment(
        data=Data("mnist", shuffle=True, first_epoch="file", holdout=5000),
        model=VAE(
            encoder=(Conv(5, channels=8), Conv(3, channels=16), MeanPool(4), Dense(500)),
            latent=20,
            decoder=(Dense(500), Dense(784), Reshape(16, 7, 7), TConv(3, channels=8), TConv(3, channels=1)),
            activation="relu",
            likelihood="bernoulli",
        ),
        optim=Adam(lr=1e-4, epsilon_at="sqrt_uncorrected"),
        training=Training(epochs=150, batch_size=100),
        reported=(
            Reported(
                cost=99.197660592,
                epoch=150,
                margin=1.07,
                seeds=tuple(range(100, 112)),
                curve="reported/mnist_conv.csv",
                source="Variational Autoencoder notebook, convolutional network on MNIST",
            ),
        ),
        sweep={"optim.lr": LogUniform(1e-5, 1e-2), "model.latent": Choice(2, 5, 10, 20, 40)},
    )
