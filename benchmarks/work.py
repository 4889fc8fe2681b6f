"""How much arithmetic one training step is, counted from the layers: the same for every way of computing it."""

from dataclasses import dataclass

from repro.benchmarks.peers.plan import Node, plan

from repro.spec import Conv, Dense, Experiment, Shape, TConv


@dataclass(frozen=True)
class Work:
    """Floating-point operations of one step's products, a multiplication and an addition counted as two.

    A layer has three products of one size: forward, gradient of its weights, gradient of its input. The first layer's
    input are the images, which need no gradient.
    """

    dense: int
    conv: int

    @property
    def covered(self) -> str:
        """What the floor, which is dense products alone, covers of the step."""
        return "the dense layers only, not the convolutions" if self.conv else "all matrix products"


def of_step(experiment: Experiment) -> Work:
    """The work of one training step."""
    layers, training = plan(experiment), experiment.training
    first = next(node for node in layers.nodes if node.weight_shape)
    draws = [1] * (len(layers.nodes) - len(layers.decoder)) + [training.samples] * len(layers.decoder)
    sums = {"dense": 0, "conv": 0}
    for node, samples in zip(layers.nodes, draws, strict=True):
        products = 2 if node is first else 3
        kind = "dense" if isinstance(node.layer, Dense) else "conv"
        sums[kind] += 2 * products * training.batch_size * samples * multiplications(node)
    return Work(**sums)


def multiplications(node: Node) -> int:
    """Multiplications of one image's forward pass; those by the zeros around an image are counted too."""
    match node.layer:
        case Dense(units=units):
            return node.inputs * units
        case Conv(kernel=kernel, channels=channels):
            return _pixels(node.gives) * kernel**2 * node.inputs * channels
        case TConv(kernel=kernel, channels=channels):
            return _pixels(node.takes) * kernel**2 * node.inputs * channels
    return 0


def _pixels(size: Shape | int) -> int:
    return size.height * size.width if isinstance(size, Shape) else 1
