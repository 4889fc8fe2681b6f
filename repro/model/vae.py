"""A variational autoencoder: encode, sample, decode, generate."""

from functools import partial

import torch
from torch import Tensor, nn

from repro import spec
from repro.errors import UsageError
from repro.model.layers import Flatten, Unflatten, constructors, describe, initialise, length, modules, sizes
from repro.rng import stream
from repro.spec import Shape


class VAE(nn.Module):
    """q(z|x) a diagonal Gaussian, p(z) = N(0, I), p(x|z) Bernoulli or Gaussian for each pixel."""

    def __init__(self, architecture: spec.VAE, image: Shape) -> None:
        """Build the modules; `build` also draws the weights. Raises UsageError if layers do not fit."""
        super().__init__()
        check(architecture, image)
        self.image, self.latent = image, architecture.latent
        self.encoder, width = modules(architecture.encoder, image, architecture.activation)
        if isinstance(width, Shape):
            self.encoder.append(Flatten())
        self.mean_head = nn.Linear(length(width), architecture.latent)
        self.log_variance_head = nn.Linear(length(width), architecture.latent)

        *body, output = architecture.decoder
        self.decoder, last = modules(body, architecture.latent, architecture.activation)
        made_by, size = constructors(output, last, describe(output))
        if not isinstance(size, Shape):
            made_by.append(partial(Unflatten, image))
        heads = 1 if architecture.likelihood == "bernoulli" else 2
        self.outputs = nn.ModuleList(nn.Sequential(*(make() for make in made_by)) for _ in range(heads))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z|x) for images in [0, 1]. [B, C, H, W] -> [B, D], [B, D]."""
        hidden = self.encoder(x)
        return self.mean_head(hidden), self.log_variance_head(hidden)

    @staticmethod
    def sample(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """Return z ~ q(z|x) for noise ~ N(0, I). [B, D], [B, D], [..., B, D] -> [..., B, D]."""
        return mean + torch.exp(0.5 * log_variance) * noise

    def decode(self, z: Tensor) -> tuple[Tensor, ...]:
        """Return the parameters of p(x|z): (logits,) or, if Gaussian, (mean, log-variance). [B, D] -> [B, C, H, W]."""
        hidden = self.decoder(z)
        return tuple(output(hidden) for output in self.outputs)

    def generate(self, z: Tensor) -> Tensor:
        """Return the mean images of p(x|z), a Gaussian's clamped to [0, 1]. [B, D] -> [B, C, H, W]."""
        images: Tensor = Generator(self)(z)
        return images


class Generator(nn.Module):
    """`VAE.generate` as a module without the encoder, for an export. [B, D] -> [B, C, H, W] in [0, 1]."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.decoder, self.outputs = vae.decoder, vae.outputs

    def forward(self, z: Tensor) -> Tensor:
        hidden = self.decoder(z)
        mean, *log_variance = [output(hidden) for output in self.outputs]
        return mean.clamp(0, 1) if log_variance else torch.sigmoid(mean)


def check(architecture: spec.VAE, image: Shape) -> None:
    """Raise UsageError with the first layer of the encoder, and of the decoder, that does not fit."""
    faults: list[str] = []
    try:
        sizes(architecture.encoder, image, "model.encoder")
    except UsageError as fault:
        faults += fault.faults
    try:
        _check_decoder(architecture, image)
    except UsageError as fault:
        faults += fault.faults
    if faults:
        raise UsageError(*faults)


def build(experiment: spec.Experiment, seed: int) -> VAE:
    """Return the experiment's model with the initial weights of `seed`. Raises UsageError."""
    generator = stream("init", seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())  # for init="pytorch", which draws from the global generator
        model = VAE(experiment.model, experiment.data.shape)
    if experiment.model.init == "truncated_normal":
        initialise(model, generator)
    return model.to(memory_format=torch.channels_last)


def count_parameters(experiment: spec.Experiment) -> int:
    """Return the number of trainable parameters, without allocating them. Raises UsageError."""
    try:
        with torch.device("meta"):
            model = VAE(experiment.model, experiment.data.shape)
    except (RuntimeError, TypeError):  # a size of more than 63 bits
        raise UsageError("the layers have more parameters than can be counted: make them smaller") from None
    return sum(parameter.numel() for parameter in model.parameters())


def memory(experiment: spec.Experiment) -> int:
    """Return the bytes that a training step needs at least.

    They hold weights, gradients and Adam's two moments, and the layers' outputs for a batch with their gradients.
    """
    layers, shape = experiment.model, experiment.data.shape
    outputs = [*sizes(layers.encoder, shape, "encoder"), *sizes(layers.decoder, layers.latent, "decoder")]
    batch = experiment.training.batch_size * sum(map(length, outputs))
    return 4 * (4 * count_parameters(experiment) + 2 * batch)


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
