"""The VAE and its layers by other roads: direct sums, counted parameters, shapes that do not fit."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from repro import spec
from repro.errors import UsageError
from repro.model import VAE, build, check, count_parameters
from repro.model.layers import Flatten, Unflatten, constructors
from repro.spec import Conv, Dense, MeanPool, Reshape, Shape, TConv, registry
from repro.spec.overrides import apply


def module(layer: spec.Layer, start: Shape) -> Any:
    """The module of a layer that needs only one."""
    ((make,), _) = constructors(layer, start, "here")
    return make()


@pytest.mark.parametrize(
    ("name", "expected"), [("mnist_fc", 1_316_824), ("mnist_conv", 818_433), ("cifar_conv", 1_150_235)]
)
def test_parameter_counts_are_those_of_the_original(name: str, expected: int) -> None:
    experiment = registry.get(name).spec
    assert count_parameters(experiment) == expected
    assert sum(p.numel() for p in build(experiment, 0).parameters()) == expected


@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_convolution_is_a_direct_sum_with_same_padding(kernel: int) -> None:
    conv = module(Conv(kernel, channels=2), Shape(3, 6, 5))
    x = torch.randn(1, 3, 6, 5)
    before = (kernel - 1) // 2  # for the 4x4 kernel: 1 before, 2 after
    expected = torch.zeros(1, 2, 6, 5)
    for out in range(2):
        for i in range(6):
            for j in range(5):
                total = conv.bias[out]
                for di in range(kernel):
                    for dj in range(kernel):
                        row, column = i + di - before, j + dj - before
                        if 0 <= row < 6 and 0 <= column < 5:
                            total = total + (conv.weight[out, :, di, dj] * x[0, :, row, column]).sum()
                expected[0, out, i, j] = total
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (4, 2), (5, 2), (2, 2), (1, 2), (3, 1), (2, 3)])
def test_transposed_convolution_scatters_and_cuts(kernel: int, stride: int) -> None:
    tconv = module(TConv(kernel, channels=2, stride=stride), Shape(3, 4, 3))
    x = torch.randn(1, 3, 4, 3)
    full = torch.zeros(2, 3 * stride + max(kernel, stride), 2 * stride + max(kernel, stride))
    for i in range(4):
        for j in range(3):
            patch = torch.einsum("c,cokl->okl", x[0, :, i, j], tconv.weight)
            full[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel] += patch
    cut = max(kernel - stride, 0) // 2
    expected = full[:, cut : cut + 4 * stride, cut : cut + 3 * stride] + tconv.bias[:, None, None]
    torch.testing.assert_close(tconv(x)[0], expected)


def test_transposed_convolution_of_the_text_keeps_all_but_the_last_row_and_column() -> None:
    tconv = module(TConv(3, channels=1), Shape(1, 4, 4))
    x = torch.randn(1, 1, 4, 4)
    full = F.conv_transpose2d(x, tconv.weight, tconv.bias, stride=2)
    assert full.shape[-1] == 2 * 4 + 1
    torch.testing.assert_close(tconv(x), full[:, :, :-1, :-1])


def test_mean_pooling_averages_blocks() -> None:
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    pooled = module(MeanPool(4), Shape(1, 8, 8))(x)
    assert pooled[0, 0, 0, 1].item() == x[0, 0, :4, 4:].mean().item()


def test_flattening_takes_rows_then_columns_then_channels() -> None:
    x = torch.randn(2, 3, 4, 5)
    flat = Flatten()(x)
    assert flat[1, (2 * 5 + 3) * 3 + 1] == x[1, 1, 2, 3]
    torch.testing.assert_close(Unflatten(Shape(3, 4, 5))(flat), x)


def test_initial_weights_are_a_cut_normal_and_the_seed_decides_them() -> None:
    experiment = registry.get("mnist_fc").spec
    first, again, other = build(experiment, 1), build(experiment, 1), build(experiment, 2)
    weights = first.mean_head.weight
    assert first.decoder[0].weight.std().item() == pytest.approx(0.0088, rel=0.03)  # of a normal cut at two of its 0.01
    assert weights.abs().max() <= 0.02
    assert not first.mean_head.bias.any()
    assert torch.equal(weights, again.mean_head.weight)
    assert not torch.equal(weights, other.mean_head.weight)


def test_other_initialisation_is_seeded_too_and_leaves_the_global_generator_alone() -> None:
    experiment = apply(registry.get("mnist_fc").spec, ["model.init=pytorch"])
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    weights = build(experiment, 1).mean_head.weight
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(weights, build(experiment, 1).mean_head.weight)
    assert weights.abs().max() > 0.02


def test_gaussian_likelihood_has_two_heads_of_the_image_shape() -> None:
    experiment = apply(registry.get("cifar_conv").spec, ["model.likelihood=gaussian"])
    model = build(experiment, 0)
    mean, log_variance = model.decode(torch.randn(2, 80))
    assert mean.shape == log_variance.shape == (2, 3, 32, 32)
    assert count_parameters(experiment) - 1_150_235 == 3 * 3 * 8 * 3 + 3
    image = model.generate(torch.randn(2, 80))
    assert image.min() >= 0
    assert image.max() <= 1


def test_encode_sample_decode_generate_shapes() -> None:
    model = build(registry.get("mnist_conv").spec, 0)
    mean, log_variance = model.encode(torch.rand(4, 1, 28, 28))
    assert mean.shape == log_variance.shape == (4, 20)
    z = VAE.sample(mean, log_variance, torch.zeros(3, 4, 20))
    torch.testing.assert_close(z, mean.expand(3, 4, 20))
    (logits,) = model.decode(z[0])
    torch.testing.assert_close(model.generate(z[0]), torch.sigmoid(logits))


@pytest.mark.parametrize("activation", spec.Activation.__args__)
def test_every_named_activation_exists(activation: Any) -> None:
    architecture = spec.VAE(encoder=(Dense(4),), latent=2, decoder=(Dense(4), Dense(784)), activation=activation)
    mean, _ = VAE(architecture, Shape(1, 28, 28)).encode(torch.rand(2, 1, 28, 28))
    assert mean.isfinite().all()


BAD = [
    ((MeanPool(5),), (Dense(784),), ["model.encoder.0 mean_pool(size=5): gets 1x28x28", "that 5 divides"]),
    ((Dense(5), Conv(3, 2)), (Dense(784),), ["model.encoder.1 conv(kernel=3, channels=2): gets a vector of 5"]),
    ((), (Dense(783),), ["model.decoder.0 dense(units=783): gives 783", "1x28x28", "784"]),
    ((), (Dense(784), TConv(3, 1)), ["model.decoder.1 tconv", "gets a vector of 784, needs an image"]),
    ((), (Dense(98), Reshape(2, 7, 7), TConv(3, 1)), ["model.decoder.2 tconv", "gives 1x14x14"]),
    ((), (Dense(99), Reshape(2, 7, 7)), ["model.decoder.1 reshape", "gets 99 values, needs 98 to make 2x7x7"]),
    ((), (Dense(784), Reshape(1, 28, 28)), ["model.decoder.1 reshape", "needs weights"]),
    ((), (Dense(784, activation="relu"),), ["model.decoder.0", "takes no activation"]),
    ((MeanPool(5),), (Dense(3),), ["model.encoder.0", "model.decoder.0"]),
]


@pytest.mark.parametrize(("encoder", "decoder", "said"), BAD)
def test_a_misfit_names_the_layer_and_both_shapes(encoder: Any, decoder: Any, said: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        check(spec.VAE(encoder=encoder, latent=2, decoder=decoder), Shape(1, 28, 28))
    for part in said:
        assert part in str(caught.value)
