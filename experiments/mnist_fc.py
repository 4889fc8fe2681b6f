"""Fully connected VAE on MNIST: 96.21 nats after 100 epochs.

python -m repro run mnist_fc
"""

from repro.registry import register
from repro.spec import VAE, Adam, Choice, Data, Dense, Experiment, LogUniform, Reported, Training


@register
def mnist_fc() -> Experiment:
    """The text's first experiment."""
    return Experiment(
        data=Data("mnist", shuffle=True, holdout=5000),
        model=VAE(
            encoder=(Dense(500), Dense(500)),
            latent=20,
            decoder=(Dense(500), Dense(500), Dense(784)),
            activation="softplus",
            likelihood="bernoulli",
        ),
        optim=Adam(lr=1e-3),
        training=Training(epochs=100, batch_size=100),
        reported=Reported(
            cost=96.2119372147,
            epoch=100,
            margin=1.01,
            curve="reported/mnist_fc.csv",
            source="Variational Autoencoder notebook, fully connected network on MNIST",
        ),
        sweep={"optim.lr": LogUniform(1e-4, 1e-2), "model.latent": Choice(2, 5, 10, 20, 40)},
    )
