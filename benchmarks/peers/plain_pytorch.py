"""The well-known PyTorch example: modules, a DataLoader of single images, sigmoid and cross-entropy, torch's Adam."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

from .workload import Layer, Request, Workload

ACTIVATIONS = {"relu": nn.ReLU, "softplus": nn.Softplus}
VERSIONS = {"torch": torch.__version__, "torchvision": torchvision.__version__}


class Images(Dataset[Tensor]):
    """Images one at a time, as `torchvision.datasets` gives them: from bytes to a picture to a tensor."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels
        self.transform = ToTensor()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        """Return one image. -> float [C, H, W] in [0, 1]."""
        image: Tensor = self.transform(Image.fromarray(self.pixels[index]))
        return image


class CutTConv(nn.ConvTranspose2d):
    """Transposed convolution, stride 2, without its last row and column. [B, C, H, W] -> [B, C', 2H, 2W]."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(x)[:, :, :-1, :-1]


class VAE(nn.Module):
    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*(part for layer in workload.encoder for part in modules(layer)))
        self.mean, self.log_variance = (nn.Linear(workload.head.inputs, workload.latent) for _ in range(2))
        self.decoder = nn.Sequential(*(part for layer in workload.decoder for part in modules(layer)))
        std = workload.weight_std
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)

    def reparameterise(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Draw z. [B, D], [B, D] -> [B, D]."""
        std = torch.exp(0.5 * log_variance)
        return mean + torch.randn_like(std) * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct a batch. [B, C, H, W] -> as many pixels in [0, 1], means and log-variances [B, D]."""
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        return torch.sigmoid(self.decoder(self.reparameterise(mean, log_variance))), mean, log_variance


def modules(layer: Layer) -> list[nn.Module]:
    """Return one layer and its activation. Raises ValueError for a layer that no experiment with peers has."""
    activation = [] if layer.activation == "identity" else [ACTIVATIONS[layer.activation]()]
    match layer.kind, layer.kernel, layer.stride:
        case "dense", _, _:
            flatten = [nn.Flatten()] if len(layer.takes) > 1 else []
            return [*flatten, nn.Linear(layer.inputs, layer.gives[-1]), *activation]
        case "conv", kernel, _:
            return [nn.Conv2d(layer.inputs, layer.gives[-1], kernel, padding="same"), *activation]
        case "tconv", 3, 2:
            return [CutTConv(layer.inputs, layer.gives[-1], 3, 2), *activation]
        case "mean_pool", size, _:
            return [nn.AvgPool2d(size)]
        case "reshape", _, _:
            height, width, channels = layer.gives
            return [nn.Unflatten(1, (channels, height, width))]
    raise ValueError(f"no module for {layer}")


def loss_function(y: Tensor, x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return cross-entropy and KL, nats, summed over pixels and batch."""
    reconstruction = F.binary_cross_entropy(y.flatten(1), x.flatten(1), reduction="sum")
    kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
    return reconstruction + kl


class Peer:
    def __init__(self, request: Request, images: NDArray[np.uint8]) -> None:
        torch.set_num_threads(request.threads)
        torch.manual_seed(request.seed)
        workload, adam = request.workload, request.workload.adam
        self.batch_size = workload.batch_size
        self.loader = DataLoader(Images(images), self.batch_size, shuffle=workload.shuffle, drop_last=True)
        self.batches = self._batches()
        self.model = VAE(workload)
        betas = (adam.beta1, adam.beta2)
        self.optimiser = optim.Adam(self.model.parameters(), lr=adam.lr, betas=betas, eps=adam.epsilon)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())

    def run(self, steps: int) -> list[float]:
        self.model.train()
        costs = []
        for _ in range(steps):
            x = next(self.batches)
            self.optimiser.zero_grad()
            y, mean, log_variance = self.model(x)
            loss = loss_function(y, x, mean, log_variance)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types there
            costs.append(loss.item() / self.batch_size)
            self.optimiser.step()
        return costs

    def _batches(self) -> Iterator[Tensor]:
        while True:
            yield from self.loader
