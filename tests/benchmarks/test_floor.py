"""The products of the floor: they are those that the FLOP count has, and each can be computed in every way."""

import math

import pytest
import torch
from repro.benchmarks.driver import workload_of
from repro.benchmarks.peers import floor
from repro.benchmarks.peers.workload import Layer

BATCH = 3


@pytest.mark.parametrize(
    ("layer", "taken"),
    [
        (Layer("conv", (6, 8, 2), (6, 8, 4), kernel=5), (6, 8)),
        (Layer("conv", (6, 8, 2), (6, 8, 4), kernel=4), (9, 11)),
        (Layer("tconv", (5, 4, 3), (10, 8, 2), kernel=3, stride=2), (5, 4)),
    ],
    ids=["odd", "even", "transposed"],
)
@torch.no_grad()
def test_every_way_of_a_convolution_has_as_many_numbers(layer: Layer, taken: tuple[int, int]) -> None:
    products = (floor.convolution if layer.kind == "conv" else floor.transposed)(layer, BATCH)
    k, s = layer.kernel, layer.stride
    full = [s * (size - 1) + k for size in layer.takes[:2]] if layer.kind == "tconv" else layer.gives[:2]
    numbers = {
        "forward": {BATCH * math.prod(full) * layer.gives[-1], BATCH * math.prod(layer.gives)},
        "weight gradient": {math.prod(layer.weight_shape)},
        "input gradient": {BATCH * math.prod(taken) * layer.inputs, BATCH * math.prod(layer.takes)},
    }
    for kind, ways in products.items():
        assert len(ways) >= 2
        for name, compute in ways.items():
            result = compute()
            assert isinstance(result, torch.Tensor)
            assert result.numel() in numbers[kind] or name == "sub-pixels", (kind, name, result.shape)


@pytest.mark.parametrize(("experiment", "count"), [("mnist_fc", 17), ("mnist_conv", 23), ("cifar_conv", 23)])
def test_a_step_has_three_products_a_layer_but_for_the_first(experiment: str, count: int) -> None:
    names = [product.name for product in floor.products(workload_of(experiment), "float32")]
    assert len(names) == len(set(names)) == count
    assert not [name for name in names if name.endswith(" 0 input gradient")]


def test_the_fastest_way_is_chosen() -> None:
    waits = {"slow": 20_000, "fast": 10}
    ways = {name: (lambda size=size: torch.rand(size, 50).sum()) for name, size in waits.items()}
    assert floor.Product("a product", ways).fastest() == "fast"
