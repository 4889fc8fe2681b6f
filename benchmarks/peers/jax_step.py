"""JAX: one jitted step whose weights and Adam sums are donated, images in memory as float32, channels last."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from numpy.typing import NDArray

from .workload import Adam, Layer, Request, Workload, as_floats, batches

Array = Any  # JAX's arrays and trees of them; the library is optional, so its types are not at hand
DIMENSIONS = ("NHWC", "HWIO", "NHWC")
VERSIONS = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}


class Peer:
    """Weights, both sums of Adam and the number of steps live on the device and are updated in place."""

    def __init__(self, request: Request, images: NDArray[np.uint8]) -> None:
        jax.config.update("jax_platforms", "cpu")
        workload = request.workload
        self.indices = batches(workload, request.seed)
        self.key, key = jax.random.split(jax.random.key(request.seed))
        keys = jax.random.split(key, len(workload.layers))
        weights = [initial(layer, workload.weight_std, part) for layer, part in zip(workload.layers, keys, strict=True)]
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(weights))
        zeros = partial(jax.tree.map, jnp.zeros_like, weights)
        self.state = (weights, zeros(), zeros(), jnp.zeros((), jnp.int32))
        self.images = jnp.asarray(as_floats(images))
        self.step = jax.jit(partial(step, workload), donate_argnums=0)

    def run(self, steps: int) -> list[float]:
        costs = []
        for _ in range(steps):
            self.state, cost = self.step(self.state, self.images, next(self.indices), self.key)
            costs.append(cost)
        return [float(cost) for cost in costs]


def step(workload: Workload, state: Array, images: Array, indices: Array, key: Array) -> Array:
    """Take one step of Adam; return the new state and the cost, nats per image."""
    weights, means, squares, count = state
    noise = jax.random.normal(jax.random.fold_in(key, count), (len(indices), workload.latent))
    value, gradients = jax.value_and_grad(partial(cost, workload))(weights, images[indices], noise)
    return (*adam(workload.adam, weights, means, squares, count + 1, gradients), count + 1), value


def cost(workload: Workload, weights: Array, x: Array, noise: Array) -> Array:
    """Return the negative ELBO, nats per image. [B, H, W, C], [B, D] -> []."""
    split = len(workload.encoder)
    hidden = forward(workload.encoder, weights[:split], x)
    mean, log_variance = (forward([workload.head], [pair], hidden) for pair in weights[split : split + 2])
    z = mean + jnp.exp(0.5 * log_variance) * noise
    logits = forward(workload.decoder, weights[split + 2 :], z).reshape(x.shape)
    reconstruction = jnp.sum(jax.nn.softplus(logits) - x * logits)
    kl = -0.5 * jnp.sum(1 + log_variance - jnp.square(mean) - jnp.exp(log_variance))
    return (reconstruction + kl) / len(x)


def adam(settings: Adam, weights: Array, means: Array, squares: Array, count: Array, gradients: Array) -> Array:
    """Return weights and both sums after Adam's update.

    With epsilon at the corrected root, sqrt(v / (1 - beta2**t)) + epsilon is (sqrt(v) + epsilon * sqrt(1 - beta2**t))
    over the same correction.
    """
    beta1, beta2 = settings.beta1, settings.beta2
    means = jax.tree.map(lambda mean, g: beta1 * mean + (1 - beta1) * g, means, gradients)
    squares = jax.tree.map(lambda square, g: beta2 * square + (1 - beta2) * g * g, squares, gradients)
    correction = jnp.sqrt(1 - beta2**count)
    rate = settings.lr * correction / (1 - beta1**count)
    epsilon = settings.epsilon * (correction if settings.epsilon_at == "sqrt_corrected" else 1)
    update = partial(jax.tree.map, lambda w, mean, square: w - rate * mean / (jnp.sqrt(square) + epsilon))
    return update(weights, means, squares), means, squares


def initial(layer: Layer, std: float, key: Array) -> tuple[Array, ...]:
    """Return first weights and biases of a layer, () for a layer without."""
    if not layer.weight_shape:
        return ()
    weights = std * jax.random.truncated_normal(key, -2, 2, layer.weight_shape)
    return weights, jnp.zeros(layer.weight_shape[-1])


def forward(layers: Sequence[Layer], weights: Array, x: Array) -> Array:
    for layer, pair in zip(layers, weights, strict=True):
        x = apply(layer, pair, x)
        x = x if layer.activation == "identity" else getattr(jax.nn, layer.activation)(x)
    return x


def apply(layer: Layer, pair: tuple[Array, ...], x: Array) -> Array:
    match layer.kind:
        case "dense":
            return x.reshape(len(x), -1) @ pair[0] + pair[1]
        case "conv":
            return jax.lax.conv_general_dilated(x, pair[0], (1, 1), "SAME", dimension_numbers=DIMENSIONS) + pair[1]
        case "tconv":
            strides = (layer.stride, layer.stride)
            return jax.lax.conv_transpose(x, pair[0], strides, "SAME", dimension_numbers=DIMENSIONS) + pair[1]
        case "mean_pool":
            (height, width, channels), size = layer.gives, layer.kernel
            return x.reshape(len(x), height, size, width, size, channels).mean((2, 4))
        case "reshape":
            return x.reshape(len(x), *layer.gives)
