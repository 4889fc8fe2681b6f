"""A tiny experiment, whose runs an earlier version of the program has tracked."""

from repro.registry import register
from repro.spec import VAE, Adam, Data, Dense, Experiment, Reported, Training


@register
def tiny() -> Experiment:
    return Experiment(
        data=Data("mnist", holdout=5000),
        model=VAE(encoder=(Dense(4),), latent=2, decoder=(Dense(4), Dense(784)), activation="softplus"),
        optim=Adam(lr=1e-2),
        training=Training(epochs=1, batch_size=100),
        reported=Reported(cost=100.0, epoch=1, source="a made-up figure"),
    )
