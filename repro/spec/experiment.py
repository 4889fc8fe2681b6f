"""The parts of an experiment as frozen, validated dataclasses.

They hold every number that decides what a run computes, so that equal specs are the same experiment. `checked` turns
all faults of a spec into one UsageError with the field, the value and the remedy of each.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, SkipValidation, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from repro.errors import UsageError
from repro.spec.search_space import Space

T = TypeVar("T")
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)

Activation = Literal[
    "celu", "elu", "gelu", "hardtanh", "identity", "leaky_relu", "mish", "relu",
    "selu", "sigmoid", "silu", "softplus", "softsign", "tanh",
]  # fmt: skip
Count = Annotated[int, Field(gt=0, le=1_000_000)]


class Shape(NamedTuple):
    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


class DatasetFacts(NamedTuple):
    """Properties of a published data set."""

    shape: Shape
    train_images: int  # before any are held out
    holdout_at: Literal["start", "end"]  # which end of the training images a holdout takes


DATASETS = {
    "mnist": DatasetFacts(Shape(1, 28, 28), 60_000, "start"),
    "cifar10": DatasetFacts(Shape(3, 32, 32), 50_000, "end"),
}


@dataclass(frozen=True, config=_CONFIG)
class Data:
    """The training images and their order.

    `shuffle` draws a new order for every epoch; otherwise every epoch is in file order. `first_epoch` sets the order of
    the first epoch if it differs: TensorFlow 1.0's reader of MNIST shuffled from the second epoch on.

    `holdout` is the number of training images that are kept out of training for the held-out negative ELBO: the first
    ones of MNIST, the last ones of CIFAR-10. With 0 the held-out negative ELBO is that of the test images.
    """

    name: Literal["mnist", "cifar10"]
    shuffle: bool = True
    first_epoch: Literal["file", "shuffled"] | None = None
    holdout: Annotated[int, Field(ge=0)] = 0

    @property
    def shape(self) -> Shape:
        return DATASETS[self.name].shape


@dataclass(frozen=True, config=_CONFIG)
class Dense:
    """Fully connected layer. It flattens an image in row, column, channel order."""

    units: Count
    activation: Activation | None = None
    kind: Literal["dense"] = "dense"


@dataclass(frozen=True, config=_CONFIG)
class Conv:
    """Convolution with stride 1 and SAME padding. An even kernel is padded by one more row and column at the end."""

    kernel: Annotated[int, Field(gt=0, le=64)]
    channels: Count
    activation: Activation | None = None
    kind: Literal["conv"] = "conv"


@dataclass(frozen=True, config=_CONFIG)
class MeanPool:
    """Non-overlapping mean pooling, without activation."""

    size: Annotated[int, Field(gt=0, le=1024)]
    kind: Literal["mean_pool"] = "mean_pool"


@dataclass(frozen=True, config=_CONFIG)
class TConv:
    """Transposed convolution with SAME padding: n pixels become n * stride. See `model.layers.SameTConv`."""

    kernel: Annotated[int, Field(gt=0, le=64)]
    channels: Count
    stride: Annotated[int, Field(gt=0, le=64)] = 2
    activation: Activation | None = None
    kind: Literal["tconv"] = "tconv"


@dataclass(frozen=True, config=_CONFIG)
class Reshape:
    """Reshape a vector to an image, in row, column, channel order."""

    channels: Count
    height: Count
    width: Count
    kind: Literal["reshape"] = "reshape"


Layer = Annotated[Dense | Conv | MeanPool | TConv | Reshape, Field(discriminator="kind")]


@dataclass(frozen=True, config=_CONFIG)
class VAE:
    """A variational autoencoder with prior N(0, I).

    Two dense heads of width `latent`, mean and log-variance, follow the encoder's listed layers. The decoder's last
    layer is its output and has no activation: it gives the Bernoulli logits. For the Gaussian likelihood it is built
    twice, for the mean and for the log-variance. `activation` is the default of the layers that name none.
    """

    encoder: Annotated[tuple[Layer, ...], Field(max_length=100)]
    latent: Count
    decoder: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=100)]
    activation: Activation = "relu"
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    init: Literal["truncated_normal", "pytorch"] = "truncated_normal"


@dataclass(frozen=True, config=_CONFIG)
class Adam:
    """Adam as in Kingma and Ba (2015).

    `epsilon_at` names the square root that epsilon is added to. `sqrt_corrected` is the root of the bias-corrected
    second moment, as in the paper's algorithm 1 and in PyTorch. `sqrt_uncorrected` is the root of the second moment
    itself, as in the reordered form at the end of the paper's section 2 ("epsilon hat") and in TensorFlow. It equals
    the first with epsilon / sqrt(1 - beta2**t) at step t, which matters where gradients are not far above epsilon.
    """

    lr: Annotated[float, Field(gt=0, le=1000)]
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    epsilon_at: Literal["sqrt_corrected", "sqrt_uncorrected"] = "sqrt_corrected"


@dataclass(frozen=True, config=_CONFIG)
class Training:
    """The length of training and its objective.

    `samples` is L, the number of Monte Carlo samples of z per image and step. `kl` is the KL in closed form, or the
    formula that the notebook prints, which has exp(s)^2 where the closed form has the variance exp(s). `estimator` is
    the estimator of the encoder's gradient of the reconstruction: pathwise, through z = mean + standard deviation *
    noise, or the score function grad log q(z|x).
    """

    epochs: Count
    batch_size: Count = 100
    samples: Annotated[int, Field(gt=0, le=10_000)] = 1
    kl: Literal["closed_form", "as_printed"] = "closed_form"
    estimator: Literal["pathwise", "score_function"] = "pathwise"


def _beside(path: str) -> str:
    if path.startswith("/") or "\\" in path or ".." in path.split("/"):
        raise ValueError("a file beside the experiment's, or in a folder there")
    return path


@dataclass(frozen=True, config=_CONFIG)
class Reported:
    """One published result: the training cost of epoch `epoch`, nats per image.

    `curve` is a CSV file beside the experiment, with the published cost of every epoch. `margin` and `seeds` are fixed
    before the runs: the largest difference of the mean cost, nats per image, that counts as reproduced (2% of the
    reported cost's excess over the entropy floor of the training images), and the seeds that decide.
    """

    cost: float
    epoch: Count
    source: str
    curve: Annotated[str, AfterValidator(_beside)] | None = None
    margin: Annotated[float, Field(gt=0)] | None = None
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()


def _as_tuple(reported: Any) -> Any:
    """Accept one reported result without a list, and None for no result."""
    return () if reported is None else (reported,) if isinstance(reported, dict | Reported) else reported


@dataclass(frozen=True, config=_CONFIG)
class Experiment:
    """Everything that decides what a run computes, and the published results.

    `reported` has the published results in the order of their epochs; a run counts for each epoch that it reaches.
    `variant_of` names the registered experiment from which this one differs in one factor. `sweep` is the default
    search space of a sweep; no run depends on it.
    """

    data: Data
    model: VAE
    optim: Adam
    training: Training
    reported: Annotated[tuple[Reported, ...], BeforeValidator(_as_tuple)] = ()
    variant_of: str | None = None
    sweep: SkipValidation[Space | None] = dataclasses.field(default=None, hash=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec without `sweep` as plain lists and dictionaries, ready for JSON."""
        values: dict[str, Any] = TypeAdapter(Experiment).dump_python(self, mode="json", exclude={"sweep"})
        return values

    def flat(self) -> dict[str, str]:
        """Return the settings as text by dotted key such as `optim.lr`; layers as JSON, without unset fields."""
        return _flatten(self.to_dict(), "")

    def differences(self, other: "Experiment") -> dict[str, tuple[str, str]]:
        """Return (own value, value of `other`) of the settings that differ, by dotted key; `-` where unset."""
        mine, theirs = self.flat(), other.flat()
        keys = [key for key in sorted(mine | theirs) if mine.get(key) != theirs.get(key)]
        return {key: (mine.get(key, "-"), theirs.get(key, "-")) for key in keys}

    @property
    def signature(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of everything that decides what an epoch computes.

        All values of data, model, optim and training enter that differ from their field's default, except the number
        of epochs. A new field therefore leaves signatures as they are if its default is the behaviour before it. A
        default must never change.
        """
        computed = {key: _without_defaults(getattr(self, key)) for key in ("data", "model", "optim", "training")}
        del computed["training"]["epochs"]
        return hashlib.sha256(json.dumps(computed, sort_keys=True).encode()).hexdigest()[:12]


def from_dict(values: dict[str, Any]) -> Experiment:
    """Return the experiment of which `Experiment.to_dict` made `values`. Raises UsageError with every fault."""
    return checked(lambda: TypeAdapter(Experiment).validate_python(values))


def _without_defaults(value: Any) -> Any:
    """Return a part of a spec as plain values without the fields that have their default; a layer keeps its kind."""
    if isinstance(value, tuple):
        return [_without_defaults(each) for each in value]
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: (getattr(value, field.name), field.default) for field in dataclasses.fields(value)}
    return {name: _without_defaults(own) for name, (own, default) in fields.items() if name == "kind" or own != default}


def checked(build: Callable[[], T]) -> T:
    """Return `build()`. Turns a ValidationError of pydantic into a UsageError with a line for each fault."""
    try:
        return build()
    except ValidationError as error:
        raise UsageError(*(_fault(detail) for detail in error.errors())) from None


def _flatten(values: dict[str, Any], prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            layers = [{k: v for k, v in layer.items() if v is not None} for layer in value]
            found[prefix + key] = json.dumps(layers)
        elif value is not None:
            found[prefix + key] = str(value)
    return found


def _fault(detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"]) or "experiment"
    message = str(detail["msg"])
    message = message.removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{place}={detail['input']!r}: should be {message}" if message != detail["msg"] else f"{place}: {message}"
