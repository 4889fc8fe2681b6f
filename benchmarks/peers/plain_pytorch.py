"""The way of the well-known PyTorch example: modules, a DataLoader of single images, sigmoid and cross-entropy, Adam.

python -m repro.benchmarks.peers.plain_pytorch mnist_fc --threads 1
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from repro.benchmarks.peers import protocol
from repro.benchmarks.peers.plan import Node, Plan, plan
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

from repro.spec import Conv, Dense, MeanPool, Reshape, Shape, TConv


class Images(Dataset[Tensor]):
    """Images one at a time, as `torchvision.datasets` gives them: from bytes to a picture to a tensor."""

    def __init__(self, pixels: protocol.Pixels) -> None:
        self.pixels = pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels
        self.transform = ToTensor()

    def __len__(self) -> int:
        """How many there are."""
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        """One image. -> float [C, H, W] in [0, 1]."""
        image: Tensor = self.transform(Image.fromarray(self.pixels[index]))
        return image


class Activation(nn.Module):
    """An activation by name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        result: Tensor = getattr(F, self.name)(x)
        return result


class CutTConv(nn.ConvTranspose2d):
    """Transposed convolution, stride 2, without its last row and column. [B, C, H, W] -> [B, C', 2H, 2W]."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve and cut. `output_size` is the base class's; it is not used."""
        return super().forward(x)[:, :, :-1, :-1]


class VAE(nn.Module):
    """Encoder with two heads, decoder with a sigmoid."""

    def __init__(self, layers: Plan) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*(part for node in layers.encoder for part in modules(node)))
        self.mean = nn.Linear(layers.head.inputs, layers.decoder[0].inputs)
        self.log_variance = nn.Linear(layers.head.inputs, layers.decoder[0].inputs)
        self.decoder = nn.Sequential(*(part for node in layers.decoder for part in modules(node)))
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                std = protocol.WEIGHT_STD
                nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)

    def reparameterise(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """A draw of z. [B, D], [B, D] -> [B, D]."""
        std = torch.exp(0.5 * log_variance)
        return mean + torch.randn_like(std) * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct a batch. [B, C, H, W] -> as many pixels in [0, 1], means and log-variances [B, D]."""
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        return torch.sigmoid(self.decoder(self.reparameterise(mean, log_variance))), mean, log_variance


def modules(node: Node) -> list[nn.Module]:
    """One layer and its activation."""
    activation = [] if node.activation == "identity" else [Activation(node.activation)]
    match node.layer:
        case Dense(units=units):
            flatten = [nn.Flatten()] if isinstance(node.takes, Shape) else []
            return [*flatten, nn.Linear(node.inputs, units), *activation]
        case Conv(kernel=kernel, channels=channels):
            return [nn.Conv2d(node.inputs, channels, kernel, padding="same"), *activation]
        case TConv(kernel=3 as kernel, channels=channels, stride=2 as stride):
            return [CutTConv(node.inputs, channels, kernel, stride), *activation]
        case MeanPool(size=size):
            return [nn.AvgPool2d(size)]
        case Reshape(channels=channels, height=height, width=width):
            return [nn.Unflatten(1, (channels, height, width))]
    raise ValueError(f"{node.layer}: not used by the setups")


def loss_function(y: Tensor, x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Cross-entropy and KL, nats, summed over pixels and batch."""
    reconstruction = F.binary_cross_entropy(y.flatten(1), x.flatten(1), reduction="sum")
    kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
    return reconstruction + kl


class PlainPytorch:
    """The example's training loop."""

    def __init__(self, request: protocol.Request) -> None:
        torch.set_num_threads(request.threads)
        torch.manual_seed(request.seed)
        experiment = request.experiment
        self.batch_size = experiment.training.batch_size
        self.loader = DataLoader(
            Images(request.images), self.batch_size, shuffle=experiment.data.shuffle, num_workers=0, drop_last=True
        )
        self.batches = self._batches()
        self.model = VAE(plan(experiment))
        self.optimiser = optim.Adam(self.model.parameters(), lr=experiment.optim.lr)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())

    def run(self, steps: int) -> list[float]:
        """Train; return each step's cost, nats per image."""
        self.model.train()
        costs = []
        for _ in range(steps):
            x = next(self.batches)
            self.optimiser.zero_grad()
            y, mean, log_variance = self.model(x)
            loss = loss_function(y, x, mean, log_variance)
            loss.backward()  # type: ignore[no-untyped-call]
            costs.append(loss.item() / self.batch_size)
            self.optimiser.step()
        return costs

    def _batches(self) -> Iterator[Tensor]:
        while True:
            yield from self.loader


if __name__ == "__main__":
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    protocol.main("plain_pytorch", PlainPytorch, versions)
