"""What a peer trains: layers with their sizes, optimiser settings, images and threads, sent as JSON."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal


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
