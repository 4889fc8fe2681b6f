"""Convolutional VAE on CIFAR-10: 1840.12 nats after 150 epochs.

python -m repro run cifar_conv
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
def cifar_conv() -> Experiment:
    """The notebook's third experiment; the images come in file order, never shuffled."""
    return Experiment(
        data=Data("cifar10", shuffle=False),
        model=VAE(
            encoder=(Conv(5, channels=8), Conv(4, channels=16), MeanPool(4), Dense(500)),
            latent=80,
            decoder=(Dense(500), Dense(1024), Reshape(16, 8, 8), TConv(3, channels=8), TConv(3, channels=3)),
            activation="relu",
            likelihood="bernoulli",
        ),
        optim=Adam(lr=1e-4, epsilon_at="sqrt_uncorrected"),
        training=Training(epochs=150, batch_size=100),
        reported=(
            Reported(
                cost=1840.119207031,
                epoch=150,
                margin=3.22,
                seeds=tuple(range(100, 112)),
                curve="reported/cifar_conv.csv",
                source="Variational Autoencoder notebook, convolutional network on CIFAR-10",
            ),
        ),
        sweep={"optim.lr": LogUniform(1e-5, 1e-2), "model.latent": Choice(20, 40, 80, 160)},
    )
