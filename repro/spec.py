"""What an experiment is: frozen, validated data. No training code and no torch here.

Every number that decides what a run computes stands in one of these classes, so that the same spec is the same
experiment. Faults are collected by `checked` and raised once, with the place, the value and the remedy.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, SkipValidation, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from repro.errors import UsageError

T = TypeVar("T")
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)

Activation = Literal[
    "celu", "elu", "gelu", "hardtanh", "identity", "leaky_relu", "mish", "relu",
    "selu", "sigmoid", "silu", "softplus", "softsign", "tanh",
]  # fmt: skip
Count = Annotated[int, Field(gt=0, le=1_000_000)]


class Shape(NamedTuple):
    """Size of one image."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


class DatasetFacts(NamedTuple):
    """What is fixed by a data set's name."""

    shape: Shape
    train_images: int  # before any are held out
    holdout_at: Literal["start", "end"]  # where among them those are that a holdout takes


DATASETS = {
    "mnist": DatasetFacts(Shape(1, 28, 28), 60_000, "start"),
    "cifar10": DatasetFacts(Shape(3, 32, 32), 50_000, "end"),
}


@dataclass(frozen=True, config=_CONFIG)
class Data:
    """The training images and their order.

    `shuffle` draws a new order for every epoch; without it every epoch is in file order. `first_epoch` is the order of
    the first epoch where it differs from the others: TensorFlow 1.0's reader of MNIST shuffled from the second on.

    `holdout` is how many training images, the first of MNIST's and the last of CIFAR-10's, are kept out of training, to
    measure the held-out negative ELBO on. With 0 the test images are used for that, for monitoring only.
    """

    name: Literal["mnist", "cifar10"]
    shuffle: bool = True
    first_epoch: Literal["file", "shuffled"] | None = None
    holdout: Annotated[int, Field(ge=0)] = 0

    @property
    def shape(self) -> Shape:
        """Size of one image."""
        return DATASETS[self.name].shape


@dataclass(frozen=True, config=_CONFIG)
class Dense:
    """Fully connected layer; an image coming in is flattened in row, column, channel order."""

    units: Count
    activation: Activation | None = None
    kind: Literal["dense"] = "dense"


@dataclass(frozen=True, config=_CONFIG)
class Conv:
    """Convolution, stride 1, SAME padding (the odd one of an even kernel's padding goes below and right)."""

    kernel: Annotated[int, Field(gt=0, le=64)]
    channels: Count
    activation: Activation | None = None
    kind: Literal["conv"] = "conv"


@dataclass(frozen=True, config=_CONFIG)
class MeanPool:
    """Non-overlapping mean pooling; no activation."""

    size: Annotated[int, Field(gt=0, le=1024)]
    kind: Literal["mean_pool"] = "mean_pool"


@dataclass(frozen=True, config=_CONFIG)
class TConv:
    """Transposed convolution, SAME: n pixels become n * stride; what is beyond that is cut below and right."""

    kernel: Annotated[int, Field(gt=0, le=64)]
    channels: Count
    stride: Annotated[int, Field(gt=0, le=64)] = 2
    activation: Activation | None = None
    kind: Literal["tconv"] = "tconv"


@dataclass(frozen=True, config=_CONFIG)
class Reshape:
    """A vector read as an image, in row, column, channel order."""

    channels: Count
    height: Count
    width: Count
    kind: Literal["reshape"] = "reshape"


Layer = Annotated[Dense | Conv | MeanPool | TConv | Reshape, Field(discriminator="kind")]


@dataclass(frozen=True, config=_CONFIG)
class VAE:
    """A variational autoencoder with prior N(0, I).

    The encoder ends in two heads that are added to what is listed: mean and log-variance, dense, `latent` wide.
    The decoder's last layer is its output, without activation: the Bernoulli logits; for the Gaussian likelihood it is
    built twice, for the mean and for the log-variance. `activation` holds for every layer that names none itself.
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

    `epsilon_at` is the square root that epsilon is added to. `sqrt_corrected` is that of the bias-corrected second
    moment, as in their algorithm 1 and in PyTorch. `sqrt_uncorrected` is that of the second moment itself, as in the
    reordered form at the end of their section 2 ("epsilon hat") and in TensorFlow. The second is the first with an
    epsilon of epsilon / sqrt(1 - beta2**t) at step t, which matters where gradients are not far above epsilon.
    """

    lr: Annotated[float, Field(gt=0, le=1000)]
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    epsilon_at: Literal["sqrt_corrected", "sqrt_uncorrected"] = "sqrt_corrected"


@dataclass(frozen=True, config=_CONFIG)
class Training:
    """How long, in what steps, and of what the gradient is taken.

    `samples` is L, the Monte Carlo samples of z per image and step. `kl` is the closed form for q's variance exp(s), or
    the one that the text prints, which has (exp(s))^2 in its place. `estimator` is how the encoder's gradient of the
    reconstruction is estimated: through z = mean + deviation * noise, or by the score function, grad log q(z|x).
    """

    epochs: Count
    batch_size: Count = 100
    samples: Annotated[int, Field(gt=0, le=10_000)] = 1
    kl: Literal["closed_form", "as_printed"] = "closed_form"
    estimator: Literal["pathwise", "score_function"] = "pathwise"


@dataclass(frozen=True, config=_CONFIG)
class Reported:
    """One published result: the training cost of epoch `epoch`, nats per image.

    `curve` is a CSV file beside the experiment, with the published cost of every epoch. `margin` and `seeds` are the
    plan, fixed before the runs: the largest difference of the mean cost, nats per image, that counts as reproduced (2%
    of the reported cost's excess over the entropy floor of the training images), and the seeds that decide.
    """

    cost: float
    epoch: Count
    source: str
    curve: str | None = None
    margin: Annotated[float, Field(gt=0)] | None = None
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()


def _as_list(reported: Any) -> Any:
    """Takes one reported result as it stands, and none as None."""
    return () if reported is None else (reported,) if isinstance(reported, dict | Reported) else reported


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """A number drawn so that its logarithm is uniform from low to high, both positive."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"log:{self.low:.12g}:{self.high:.12g}"


@dataclasses.dataclass(frozen=True)
class Uniform:
    """A number drawn uniformly from low to high."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"uniform:{self.low:.12g}:{self.high:.12g}"


@dataclasses.dataclass(frozen=True)
class Integers:
    """A whole number from low to high, both included."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"int:{self.low}:{self.high}"


@dataclasses.dataclass(frozen=True, init=False)
class Choice:
    """One of a few values, of which none is nearer to another."""

    values: tuple[int | float | str, ...]

    def __init__(self, *values: int | float | str) -> None:
        object.__setattr__(self, "values", values)

    def __str__(self) -> str:
        return ",".join(str(value) for value in self.values)


Range = LogUniform | Uniform | Integers | Choice
Space = dict[str, Range]
"""What a setting may be in a sweep; as text it is what `--space` takes."""


@dataclass(frozen=True, config=_CONFIG)
class Experiment:
    """Everything that decides what a run computes, and what was reported for it.

    `reported` are the published results, in the order of their epochs; a run counts for each whose epoch it reaches.
    `variant_of` names the registered experiment that this one differs from in one factor, to see what that does.
    `sweep` is what a sweep searches unless it is told otherwise, ranges by dotted key; no run depends on it.
    """

    data: Data
    model: VAE
    optim: Adam
    training: Training
    reported: Annotated[tuple[Reported, ...], BeforeValidator(_as_list)] = ()
    variant_of: str | None = None
    sweep: SkipValidation[Space | None] = dataclasses.field(default=None, hash=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The whole spec but for `sweep` as plain lists and dictionaries, ready for JSON."""
        values: dict[str, Any] = TypeAdapter(Experiment).dump_python(self, mode="json", exclude={"sweep"})
        return values

    def flat(self) -> dict[str, str]:
        """The spec as text by dotted key, `optim.lr` and the like; layers as JSON, unset fields left out."""
        return _flatten(self.to_dict(), "")

    def differences(self, other: "Experiment") -> dict[str, tuple[str, str]]:
        """Return the settings that differ, by dotted key: the value here and that of `other`, `-` where unset."""
        mine, theirs = self.flat(), other.flat()
        keys = [key for key in sorted(mine | theirs) if mine.get(key) != theirs.get(key)]
        return {key: (mine.get(key, "-"), theirs.get(key, "-")) for key in keys}

    @property
    def signature(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of everything that decides what an epoch computes.

        Of data, model, optim and training all enters that is not a field's default, so that a new field whose default
        is how it was before leaves signatures as they are: a default must never change. How many epochs there are does
        not enter, nor what was reported or whose variant it is.
        """
        computed = {key: _deviating(getattr(self, key)) for key in ("data", "model", "optim", "training")}
        del computed["training"]["epochs"]
        return hashlib.sha256(json.dumps(computed, sort_keys=True).encode()).hexdigest()[:12]


def from_dict(values: dict[str, Any]) -> Experiment:
    """The inverse of `Experiment.to_dict`. Raises UsageError with every fault."""
    return checked(lambda: TypeAdapter(Experiment).validate_python(values))


def _deviating(value: Any) -> Any:
    """A spec as plain values without the fields that have their default; a layer keeps its kind."""
    if isinstance(value, tuple):
        return [_deviating(each) for each in value]
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: (getattr(value, field.name), field.default) for field in dataclasses.fields(value)}
    return {name: _deviating(own) for name, (own, default) in fields.items() if name == "kind" or own != default}


def checked(build: Callable[[], T]) -> T:
    """Call `build` and turn what pydantic says of its values into one UsageError with a line for each fault."""
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
