"""A VAE as layers with hand-written gradients: forward, costs, backward."""

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn

from repro.engine.fast.convolutions import Conv, TConv
from repro.engine.fast.layers import Dense, Layer, MeanPool, Reshape, Trained, Weights
from repro.engine.fast.products import Mkl
from repro.engine.step import Unsupported
from repro.model import VAE
from repro.model.layers import Activate, Flatten, SameConv, SameTConv, Unflatten
from repro.spec import Training

Update = Callable[[Trained], None]
HALVINGS = 3  # products of eight sigmoids are at least 2**-8, far from underflow


def cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    """Return the Bernoulli cross-entropy, softplus(l) - x l, summed over the last axis, nats. [..., P] twice -> [...].

    softplus(l) - x l = (max(l, 0) - x l) - log sigmoid(|l|). Neither term is ever negative, so that their sums do not
    cancel. Sigmoids of |l| are in [1/2, 1]: products of a few of them are exact enough to take one logarithm, the
    expensive operation, of each product.
    """
    t = logits.abs().sigmoid_()
    for _ in range(HALVINGS):
        if t.shape[-1] % 2 == 0:
            half = t.shape[-1] // 2
            t = t[..., :half].mul_(t[..., half:])
    return logits.clamp_min(0).addcmul_(logits, x, value=-1).sum(-1) - t.log_().sum(-1)


def cross_entropy_gradient(logits: Tensor, x: Tensor, scale: float) -> Tensor:
    """Overwrite the logits with the gradient, sigmoid(l) - x, times `scale`. [B, P], [B, P] -> [B, P]."""
    return torch.sigmoid_(logits).sub_(x).mul_(scale)


def closed_form(std: Tensor) -> tuple[Tensor, Tensor]:
    """Return v - 1 of the variance v, and twice the derivative of the KL by log v. [B, D] -> [B, D], [B, D].

    The KL of a dimension is (mean^2 + (v - 1) - log v) / 2. The sum of v - 1 loses few of its digits.
    """
    excess = std.square().sub_(1)
    return excess, excess


def as_printed(std: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same of the KL that the notebook prints, with v^2 in place of v: v^2 - 1, and 2 v^2 - 1."""
    excess = std.pow(4).sub_(1)
    return excess, excess.mul(2).add_(1)


KL = {"closed_form": closed_form, "as_printed": as_printed}
"""By the values of the setting `training.kl`."""


class Latent:
    """z = mean + exp(log_variance / 2) * noise, and the KL to N(0, I), from both heads side by side, [B, 2D]."""

    mean: Tensor
    std: Tensor  # exp(log_variance / 2)
    twice_kl_by_log_variance: Tensor
    noise: Tensor

    def __init__(self, kl: str = "closed_form") -> None:
        self.kl = KL[kl]

    def forward(self, heads: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return z, and the KL summed over the batch, nats. [B, 2D], [B, D] -> [B, D], []."""
        self.mean, log_variance = heads.chunk(2, dim=1)
        self.std, self.noise = torch.mul(log_variance, 0.5).exp_(), noise
        excess, self.twice_kl_by_log_variance = self.kl(self.std)
        kl = (excess - log_variance).addcmul_(self.mean, self.mean).sum().mul_(0.5)
        return torch.addcmul(self.mean, self.std, noise), kl

    def backward(self, grad: Tensor, scale: float) -> Tensor:
        """Return the gradient by the heads, given the reconstruction's gradient by z. [B, D] -> [B, 2D].

        `scale` is the factor of the KL's gradient.
        """
        mean = torch.add(grad, self.mean, alpha=scale)
        log_variance = (grad * self.noise).mul_(self.std).add_(self.twice_kl_by_log_variance, alpha=scale).mul_(0.5)
        return torch.cat((mean, log_variance), dim=1)


class Network:
    """The layers of `model`, for batches of one size. Their weights share memory with the model's.

    The two heads are one layer: their weights become views of one tensor. Raises Unsupported for a model or a training
    objective that the layers do not cover.
    """

    def __init__(self, model: VAE, training: Training, products: Mkl) -> None:
        if len(model.outputs) > 1 or training.samples > 1 or training.estimator != "pathwise":
            raise Unsupported("the fast step has only the pathwise estimator, one sample and the Bernoulli likelihood")
        if training.kl not in KL:
            raise Unsupported(f"the fast step has no gradient of the KL {training.kl}")
        images = torch.zeros(training.batch_size, *model.image)
        self.encoder = layers_of(model.encoder, images, products)
        self.heads = Dense(_merged(model.mean_head, model.log_variance_head), "identity", products)
        z = torch.zeros(training.batch_size, model.latent)
        self.decoder = layers_of([*model.decoder, *model.outputs[0].children()], z, products)
        self.trained[0].needs_input_gradient = False  # its input are the images
        self.latent = Latent(training.kl)

    @property
    def trained(self) -> list[Trained]:
        """The layers with weights, in the order of the model's parameters."""
        return [layer for layer in (*self.encoder, self.heads, *self.decoder) if isinstance(layer, Trained)]

    def train(self, images: Tensor, noise: Tensor, scale: float, update: Update) -> tuple[Tensor, Tensor]:
        """Return reconstruction and KL, nats, summed over the batch. uint8 [B, H, W, C], [B, D] -> [], [].

        Calls `update` with each layer that has weights as soon as it has its gradients, while they are in the
        processor's cache. The gradients are those of the costs times `scale`.
        """
        pixels, logits, kl = self._forward(images, noise)
        reconstruction = cross_entropy(logits.view(-1), pixels.view(-1))
        by_z = _back(self.decoder, cross_entropy_gradient(logits, pixels, scale), update)
        assert by_z is not None  # the decoder's layers all need their input's gradient
        _back([*self.encoder, self.heads], self.latent.backward(by_z, scale), update)
        return reconstruction, kl

    def costs(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same costs without training."""
        pixels, logits, kl = self._forward(images, noise)
        return cross_entropy(logits.view(-1), pixels.view(-1)), kl

    def _forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pixels [B, P], their logits [B, P], and the KL summed over the batch, nats."""
        h = x = images.float().div_(255)
        for layer in self.encoder:
            h = layer.forward(h)
        z, kl = self.latent.forward(self.heads.forward(h), noise)
        for layer in self.decoder:
            z = layer.forward(z)
        pixels = x.view(len(x), -1)
        return pixels, z.view(pixels.shape), kl


@torch.no_grad()
def layers_of(modules: Iterable[nn.Module], x: Tensor, products: Mkl) -> list[Layer]:
    """Return a layer for each module, an activation as part of the module before it.

    `x`, a batch of the modules' input, passes through them and so gives every layer its size.
    """
    found: list[Layer] = []
    listed = list(modules)
    for module, following in zip_longest(listed, listed[1:]):
        act = following.name if isinstance(following, Activate) else "identity"
        size = (len(x), *x.shape[2:])
        match module:
            case nn.Linear():
                found.append(Dense(_weights(module), act, products))
            case SameConv():
                found.append(Conv(_weights(module), act, size, products))
            case SameTConv():
                found.append(TConv(_weights(module), act, size, module.stride[0], products))
            case nn.AvgPool2d(kernel_size=int() as window):
                found.append(MeanPool(window, x.shape[1]))
            case Unflatten():
                channels, height, width = module.shape
                found.append(Reshape((height, width, channels)))
            case Flatten() | Activate():  # dense layers flatten what they are given
                pass
            case _:
                raise Unsupported(type(module).__name__)
        x = module(x)
    return found


def _weights(module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> Weights:
    assert module.bias is not None
    return module.weight.data, module.bias.data


def _merged(*modules: nn.Linear) -> Weights:
    """Return the stacked weights and biases of the modules. The modules' own become views of them."""
    weight, bias = (torch.cat(each) for each in zip(*map(_weights, modules), strict=True))
    for module, part, part_bias in zip(modules, weight.chunk(len(modules)), bias.chunk(len(modules)), strict=True):
        module.weight.data, module.bias.data = part, part_bias
    return weight, bias


def _back(layers: Sequence[Layer], grad: Tensor | None, update: Update) -> Tensor | None:
    for layer in reversed(layers):
        if grad is None:
            break
        grad = layer.backward(grad)
        if isinstance(layer, Trained):
            update(layer)
    return grad
