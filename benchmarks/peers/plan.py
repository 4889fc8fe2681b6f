"""An experiment's layers with what goes into each, from which every peer builds its own network."""

from collections.abc import Sequence
from dataclasses import dataclass

from repro.spec import Conv, Dense, Experiment, Layer, MeanPool, Reshape, Shape, TConv


@dataclass(frozen=True)
class Node:
    """One layer: what it takes and gives (images, or vectors of a length) and the activation that follows it."""

    layer: Layer
    takes: Shape | int
    gives: Shape | int
    activation: str

    @property
    def inputs(self) -> int:
        """Numbers in a flattened input of a dense layer, channels of any other's."""
        if isinstance(self.layer, Dense):
            return (
                self.takes
                if isinstance(self.takes, int)
                else self.takes.channels * self.takes.height * self.takes.width
            )
        return 0 if isinstance(self.takes, int) else self.takes.channels

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Dense [in, out], convolutions [k, k, in, out], () for a layer without weights."""
        match self.layer:
            case Dense(units=units):
                return (self.inputs, units)
            case Conv(kernel=kernel, channels=channels) | TConv(kernel=kernel, channels=channels):
                return (kernel, kernel, self.inputs, channels)
            case _:
                return ()


@dataclass(frozen=True)
class Plan:
    """Encoder, one of its two equal heads, decoder; the decoder's last layer gives logits, so has no activation."""

    encoder: tuple[Node, ...]
    head: Node
    decoder: tuple[Node, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every layer in order: encoder, mean head, log-variance head, decoder."""
        return (*self.encoder, self.head, self.head, *self.decoder)


def plan(experiment: Experiment) -> Plan:
    """The layers of an experiment, sizes worked out."""
    model = experiment.model
    encoder = _chain(model.encoder, experiment.data.shape, model.activation)
    head = Node(Dense(model.latent), encoder[-1].gives, model.latent, "identity")
    *body, output = _chain(model.decoder, model.latent, model.activation)
    return Plan(encoder, head, (*body, Node(output.layer, output.takes, output.gives, "identity")))


def _chain(layers: Sequence[Layer], start: Shape | int, activation: str) -> tuple[Node, ...]:
    nodes: list[Node] = []
    for layer in layers:
        follows = "identity" if isinstance(layer, MeanPool | Reshape) else layer.activation or activation
        nodes.append(Node(layer, start, _size_after(layer, start), follows))
        start = nodes[-1].gives
    return tuple(nodes)


def _size_after(layer: Layer, start: Shape | int) -> Shape | int:
    match layer, start:
        case Dense(units=units), _:
            return units
        case Reshape(channels=channels, height=height, width=width), _:
            return Shape(channels, height, width)
        case Conv(channels=channels), Shape():
            return start._replace(channels=channels)
        case MeanPool(size=size), Shape():
            return Shape(start.channels, start.height // size, start.width // size)
        case TConv(channels=channels, stride=stride), Shape():
            return Shape(channels, start.height * stride, start.width * stride)
    raise ValueError(f"{layer} after {start}: does not fit")
