"""A variational autoencoder: encode, sample, decode, generate."""

import torch
from torch import Tensor, nn

from repro import spec
from repro.errors import UsageError
from repro.model.layers import Flatten, Unflatten, describe, initialise, length, module, modules, sizes
from repro.rng import stream
from repro.spec import Shape


class VAE(nn.Module):
    """q(z|x) a diagonal Gaussian, p(z) = N(0, I), p(x|z) Bernoulli or Gaussian for each pixel."""

    def __init__(self, architecture: spec.VAE, image: Shape) -> None:
        """Build with uninitialised weights; `build` gives them values. Raises UsageError where layers do not fit."""
        super().__init__()
        check(architecture, image)
        self.image, self.latent = image, architecture.latent
        width = ([image, *sizes(architecture.encoder, image, "encoder")])[-1]
        self.encoder = modules(architecture.encoder, image, architecture.activation)
        if isinstance(width, Shape):
            self.encoder.append(Flatten())
        self.mean_head = nn.Linear(length(width), architecture.latent)
        self.log_variance_head = nn.Linear(length(width), architecture.latent)

        body, output = architecture.decoder[:-1], architecture.decoder[-1]
        last = ([architecture.latent, *sizes(body, architecture.latent, "decoder")])[-1]
        self.decoder = modules(body, architecture.latent, architecture.activation)
        self.outputs = nn.ModuleList(
            _output(output, last, image) for _ in range(1 if architecture.likelihood == "bernoulli" else 2)
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x) for images in [0, 1]. [B, C, H, W] -> [B, D], [B, D]."""
        hidden = self.encoder(x)
        return self.mean_head(hidden), self.log_variance_head(hidden)

    @staticmethod
    def sample(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """Reparameterised z ~ q(z|x) from noise ~ N(0, I). [B, D], [B, D], [..., B, D] -> [..., B, D]."""
        return mean + torch.exp(0.5 * log_variance) * noise

    def decode(self, z: Tensor) -> tuple[Tensor, ...]:
        """Parameters of p(x|z): Bernoulli (logits,) or Gaussian (mean, log-variance). [B, D] -> [B, C, H, W] each."""
        hidden = self.decoder(z)
        return tuple(output(hidden) for output in self.outputs)

    def generate(self, z: Tensor) -> Tensor:
        """The mean image of p(x|z) in [0, 1]; a Gaussian's is cut to that. [B, D] -> [B, C, H, W]."""
        parameters = self.decode(z)
        return torch.sigmoid(parameters[0]) if len(parameters) == 1 else parameters[0].clamp(0, 1)


class Generator(nn.Module):
    """A VAE's way from z to images as a module of its own, to be exported. [B, D] -> [B, C, H, W] in [0, 1]."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        """Mean images of p(x|z)."""
        return self.vae.generate(z)


def check(architecture: spec.VAE, image: Shape) -> None:
    """Raise UsageError with the first misfit of the encoder and of the decoder, if there are any."""
    faults: list[str] = []
    for check_half in (_check_encoder, _check_decoder):
        try:
            check_half(architecture, image)
        except UsageError as fault:
            faults += fault.faults
    if faults:
        raise UsageError(*faults)


def build(experiment: spec.Experiment, seed: int) -> VAE:
    """The experiment's model with its initial weights, which the seed determines. Raises UsageError."""
    generator = stream("init", seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())  # for init="pytorch", which draws from the global generator
        model = VAE(experiment.model, experiment.data.shape)
    if experiment.model.init == "truncated_normal":
        initialise(model, generator)
    return model.to(memory_format=torch.channels_last)


def count_parameters(experiment: spec.Experiment) -> int:
    """Number of trainable numbers, found without giving them memory. Raises UsageError."""
    with torch.device("meta"):
        model = VAE(experiment.model, experiment.data.shape)
    return sum(parameter.numel() for parameter in model.parameters())


def _check_encoder(architecture: spec.VAE, image: Shape) -> None:
    sizes(architecture.encoder, image, "model.encoder")


def _check_decoder(architecture: spec.VAE, image: Shape) -> None:
    layers = architecture.decoder
    end, last = sizes(layers, architecture.latent, "model.decoder")[-1], layers[-1]
    place = f"model.decoder.{len(layers) - 1} {describe(last)}"
    if end not in (image, length(image)):
        raise UsageError(f"{place}: gives {end}, needs to end at the image's {image}, or at its {length(image)} values")
    if not isinstance(last, spec.Dense | spec.Conv | spec.TConv):
        raise UsageError(f"{place}: is the output, which needs weights: a dense, conv or tconv")
    if last.activation not in (None, "identity"):
        raise UsageError(f"{place}: is the output, which gives the likelihood's parameters and takes no activation")


def _output(layer: spec.Layer, start: Shape | int, image: Shape) -> nn.Sequential:
    parts = module(layer, start)
    return nn.Sequential(*parts, Unflatten(image)) if isinstance(layer, spec.Dense) else nn.Sequential(*parts)
