"""What a peer trains: layers with their sizes, optimiser settings and threads, sent as JSON; synthetic images."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Layer:
    """One layer and the activation after it.

    `takes` and `gives` are the sizes of its input and output, (height, width, channels) or (length,). Convolutions and
    mean pooling have a `kernel`, transposed convolutions also a `stride`.
    """

    kind: Literal["dense", "conv", "tconv", "mean_pool", "reshape"]
    takes: tuple[int, ...]
    gives: tuple[int, ...]
    activation: str = "identity"
    kernel: int = 0
    stride: int = 1

    @property
    def inputs(self) -> int:
        """Length of a dense layer's flattened input; channels of another layer's input."""
        return math.prod(self.takes) if self.kind == "dense" else self.takes[-1]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(inputs, outputs), for convolutions (kernel, kernel, inputs, outputs), () without weights."""
        if self.kind == "dense":
            return (self.inputs, self.gives[-1])
        return (self.kernel, self.kernel, self.inputs, self.gives[-1]) if self.kind in ("conv", "tconv") else ()

    @property
    def multiplications(self) -> int:
        """Multiplications of the forward pass of one image, including those by the zeros around the image."""
        if not self.weight_shape:
            return 0
        positions = {"dense": (), "conv": self.gives[:2], "tconv": self.takes[:2]}[self.kind]
        return math.prod(self.weight_shape) * math.prod(positions)


@dataclass(frozen=True)
class Adam:
    """The optimiser's settings; see `repro.spec.Adam`.

    JAX and this project add epsilon at `epsilon_at`; TensorFlow and PyTorch ignore it.
    """

    lr: float
    beta1: float
    beta2: float
    epsilon: float
    epsilon_at: str


@dataclass(frozen=True)
class Workload:
    """A variational autoencoder and its training.

    The encoder ends in two heads like `head`, for mean and log-variance. The decoder's last layer gives Bernoulli
    logits. `image` is (height, width, channels); there are `images` training images. Initial weights have a normal
    distribution of standard deviation `weight_std`, truncated at two standard deviations.
    """

    experiment: str
    encoder: tuple[Layer, ...]
    head: Layer
    decoder: tuple[Layer, ...]
    image: tuple[int, ...]
    images: int
    shuffle: bool
    batch_size: int
    adam: Adam
    weight_std: float = 0.01

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers in order: encoder, mean head, log-variance head, decoder."""
        return (*self.encoder, self.head, self.head, *self.decoder)

    @property
    def latent(self) -> int:
        return self.head.gives[-1]

    @property
    def steps_per_epoch(self) -> int:
        return self.images // self.batch_size

    def flop(self, *kinds: str) -> int:
        """Return the operations of one step's products in layers of these kinds; multiply-add counts as two.

        A layer has three products of equal size: forward, gradient of its weights, gradient of its input. The first
        layer has two, because its input is the images, which need no gradient.
        """
        products = [(3 if index else 2, layer) for index, layer in enumerate(self.layers) if layer.kind in kinds]
        return 2 * self.batch_size * sum(count * layer.multiplications for count, layer in products)


@dataclass(frozen=True)
class Request:
    """What one process trains, and how. Only this project's own step uses `engine` and `precision`."""

    workload: Workload
    threads: int = 1
    warmup: int = 0
    seed: int = 0
    engine: Literal["auto", "plain", "compiled"] = "auto"
    precision: Literal["float32", "mixed"] = "float32"

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def from_json(text: str) -> Request:
    values = json.loads(text)
    workload = values["workload"]
    for part in ("encoder", "decoder"):
        workload[part] = tuple(map(_layer, workload[part]))
    workload |= {"head": _layer(workload["head"]), "image": tuple(workload["image"]), "adam": Adam(**workload["adam"])}
    return Request(**values | {"workload": Workload(**workload)})


def _layer(values: dict[str, Any]) -> Layer:
    return Layer(**values | {"takes": tuple(values["takes"]), "gives": tuple(values["gives"])})


def synthetic_images(workload: Workload, seed: int) -> NDArray[np.uint8]:
    """Return training images of a soft spot on black, random in position, size and colour. -> [N, H, W, C]."""
    (height, width, channels), count = workload.image, workload.images
    generator = np.random.default_rng(seed)
    size = generator.uniform(0.08, 0.2, (count, 1))
    rows, columns = (
        np.exp(-(((np.arange(length) / length - generator.uniform(0.2, 0.8, (count, 1))) / size) ** 2)).astype("f4")
        for length in (height, width)
    )
    colours = generator.uniform(128, 255, (count, channels)).astype("f4")
    images = np.empty((count, height, width, channels), np.uint8)
    for first in range(0, count, 1000):  # in pieces, to use little memory
        part = slice(first, first + 1000)
        images[part] = np.einsum("nh,nw,nc->nhwc", rows[part], columns[part], colours[part])
    return images


def as_floats(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return pixels in [0, 1]. -> float32 [N, H, W, C]."""
    return np.divide(images, 255, dtype=np.float32)


def batches(workload: Workload, seed: int) -> Iterator[NDArray[np.int32]]:
    """Yield the indices of each step's images, epoch after epoch, without end. -> int32 [B] each."""
    generator, order = np.random.default_rng(seed), np.arange(workload.images, dtype=np.int32)
    while True:
        if workload.shuffle:
            generator.shuffle(order)
        for step in range(workload.steps_per_epoch):
            yield order[step * workload.batch_size : (step + 1) * workload.batch_size].copy()
