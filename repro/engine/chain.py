"""A VAE as a chain of hand-written layers: forward, costs, backward."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from repro import spec
from repro.engine.convolutions import Conv, TConv
from repro.engine.layers import Dense, Layer, MeanPool, Reshape, Trained, Weights
from repro.engine.products import Mkl
from repro.engine.step import Unsupported
from repro.spec import Experiment

HALVINGS = 3  # products of eight sigmoids are at least 2**-8, far from underflow


class BernoulliFromLogits:
    """Cross-entropy of pixels x under logits l, softplus(l) - x l, and its gradient sigmoid(l) - x.

    softplus(l) - x l = (max(l, 0) - x l) - log sigmoid(|l|), both terms never negative, so that their sums lose no
    digits to each other. Sigmoids of |l| are in [1/2, 1]: some of them can be multiplied before the logarithm, which
    is the dear one, is taken of the product.
    """

    def forward(self, logits: Tensor, x: Tensor) -> Tensor:
        """[B, P], [B, P] -> sum over batch and pixels in nats."""
        flat = logits.view(-1)
        t = flat.abs().sigmoid_()
        for _ in range(HALVINGS):
            if len(t) % 2 == 0:
                half = len(t) // 2
                t = t[:half].mul_(t[half:])
        return flat.clamp_min(0).addcmul_(flat, x.view(-1), value=-1).sum() - t.log_().sum()

    def backward(self, logits: Tensor, x: Tensor, scale: float) -> Tensor:
        """The gradient times `scale`, written over the logits. [B, P], [B, P] -> [B, P]."""
        return torch.sigmoid_(logits).sub_(x).mul_(scale)


class Latent:
    """z = mean + exp(log_variance / 2) * noise from both heads side by side, [B, 2D], and the KL to N(0, I)."""

    mean: Tensor
    deviation: Tensor
    slope: Tensor  # twice the derivative of the KL by the log-variance
    noise: Tensor

    def __init__(self, kl_as_printed: bool = False) -> None:
        self.as_printed = kl_as_printed

    def forward(self, heads: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 2D], [B, D] -> z [B, D], sum of the KL over the batch in nats."""
        self.mean, log_variance = heads.chunk(2, dim=1)
        self.deviation, self.noise = torch.mul(log_variance, 0.5).exp_(), noise
        excess = self.deviation.square().sub_(1)  # variance - 1, of which few digits are lost in the sum
        self.slope = excess
        if self.as_printed:
            excess = self.deviation.pow(4).sub_(1)
            self.slope = excess.mul(2).add_(1)
        kl = (excess - log_variance).addcmul_(self.mean, self.mean).sum().mul_(0.5)
        return torch.addcmul(self.mean, self.deviation, noise), kl

    def backward(self, grad: Tensor, scale: float) -> Tensor:
        """Gradient by the heads, of the reconstruction through z and of the KL times `scale`. [B, D] -> [B, 2D]."""
        mean = torch.add(grad, self.mean, alpha=scale)
        log_variance = (grad * self.noise).mul_(self.deviation).add_(self.slope, alpha=scale).mul_(0.5)
        return torch.cat((mean, log_variance), dim=1)


class Chain:
    """A batch of `images` through the encoder, the latent variable, the decoder and back."""

    def __init__(self, experiment: Experiment, weights: Sequence[Weights], images: int, products: Mkl) -> None:
        model, shape = experiment.model, experiment.data.shape
        if model.likelihood != "bernoulli" or experiment.training.samples != 1:
            raise Unsupported("the fast step has only the Bernoulli likelihood with one sample")
        if experiment.training.estimator != "pathwise":
            raise Unsupported("the fast step has only the pathwise estimator")
        self.images, self.products, rest = images, products, iter(weights)
        size: tuple[int, ...] = (shape.height, shape.width, shape.channels)
        self.encoder, _ = self._layers(model.encoder, size, model.activation, rest, first=True)
        trained = any(isinstance(layer, Trained) for layer in self.encoder)
        self.heads = Dense(next(rest), "identity", products, needs_input_gradient=trained)
        self.decoder, size = self._layers(model.decoder[:-1], (model.latent,), model.activation, rest)
        self.decoder += self._layers(model.decoder[-1:], size, "identity", rest)[0]
        self.latent = Latent(kl_as_printed=experiment.training.kl == "as_printed")
        self.likelihood = BernoulliFromLogits()

    @property
    def trained(self) -> list[Trained]:
        """The layers with weights, in their order."""
        return [layer for layer in (*self.encoder, self.heads, *self.decoder) if isinstance(layer, Trained)]

    def run(self, images: Tensor, noise: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Sums of reconstruction and KL in nats; every layer then holds what the gradient times `scale` needs.

        uint8 [B, H, W, C], [B, D] -> two scalars.
        """
        pixels, logits, kl = self._forward(images, noise)
        reconstruction = self.likelihood.forward(logits, pixels)
        by_z = _back(self.decoder, self.likelihood.backward(logits, pixels, scale))
        assert by_z is not None  # the decoder's layers all need their input's gradient
        _back(self.encoder, self.heads.backward(self.latent.backward(by_z, scale)))
        return reconstruction, kl

    def costs(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of reconstruction and KL in nats, and nothing else. uint8 [B, H, W, C], [B, D] -> two scalars."""
        pixels, logits, kl = self._forward(images, noise)
        return self.likelihood.forward(logits, pixels), kl

    def _forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels [B, P], their logits [B, P], and the sum of the KL in nats."""
        h = x = images.float().div_(255)
        for layer in self.encoder:
            h = layer.forward(h)
        z, kl = self.latent.forward(self.heads.forward(h), noise)
        for layer in self.decoder:
            z = layer.forward(z)
        pixels = x.view(len(x), -1)
        return pixels, z.view(pixels.shape), kl

    def _layers(
        self,
        layers: Sequence[spec.Layer],
        size: tuple[int, ...],
        default: str,
        weights: Iterator[Weights],
        first: bool = False,
    ) -> tuple[list[Layer], tuple[int, ...]]:
        """Layer objects for their specs, and the size of what comes out, without the batch."""
        found: list[Layer] = []
        for layer in layers:
            needs_input_gradient = not first or any(isinstance(each, Trained) for each in found)
            match layer:
                case spec.Dense():
                    act = layer.activation or default
                    found.append(Dense(next(weights), act, self.products, needs_input_gradient))
                    size = (layer.units,)
                case spec.Conv():
                    act, at = layer.activation or default, (self.images, size[0], size[1])
                    found.append(Conv(next(weights), act, at, needs_input_gradient))
                    size = (*size[:2], layer.channels)
                case spec.TConv():
                    act, at = layer.activation or default, (self.images, size[0], size[1])
                    found.append(TConv(next(weights), act, at, layer.stride, needs_input_gradient))
                    size = (size[0] * layer.stride, size[1] * layer.stride, layer.channels)
                case spec.MeanPool():
                    found.append(MeanPool(layer.size, (size[0], size[1], size[2])))
                    size = (size[0] // layer.size, size[1] // layer.size, size[2])
                case spec.Reshape():
                    size = (layer.height, layer.width, layer.channels)
                    found.append(Reshape(size))
        return found, size


def _back(layers: Sequence[Layer], grad: Tensor | None) -> Tensor | None:
    for layer in reversed(layers):
        if grad is None:
            break
        grad = layer.backward(grad)
    return grad
