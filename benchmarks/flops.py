"""Floating-point operations of one training step, counted from the layers, whatever computes them."""

import math
from dataclasses import dataclass

from repro.benchmarks.peers.workload import Layer, Workload


@dataclass(frozen=True)
class Flops:
    """Operations of one step's products; a multiplication and an addition count as two.

    A layer has three products of equal size: forward, gradient of its weights, gradient of its input. The first layer
    has two, because its input is the images, which need no gradient.
    """

    dense: int
    conv: int

    @property
    def covered(self) -> str:
        """What the floor, which is the dense products alone, covers of the step."""
        return "the dense layers only, not the convolutions" if self.conv else "all matrix products"


def of_step(workload: Workload) -> Flops:
    sums = {"dense": 0, "conv": 0}
    for index, layer in enumerate(workload.layers):
        kind = "dense" if layer.kind == "dense" else "conv"
        sums[kind] += 2 * (3 if index else 2) * workload.batch_size * multiplications(layer)
    return Flops(**sums)


def multiplications(layer: Layer) -> int:
    """Count one image's multiplications in the forward pass, including those by the zeros around an image."""
    if not layer.weight_shape:
        return 0
    positions = {"dense": (), "conv": layer.gives[:2], "tconv": layer.takes[:2]}[layer.kind]
    return math.prod(layer.weight_shape) * math.prod(positions)
