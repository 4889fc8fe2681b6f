"""JAX: one jitted step whose weights and Adam sums are donated, images in memory as float32, channels last.

python -m repro.benchmarks.peers.jax_step mnist_fc --threads 1
"""

from functools import partial
from typing import Any

from repro.benchmarks.peers import protocol
from repro.benchmarks.peers.plan import Node, Plan, plan

from repro.spec import Adam, Conv, Dense, Experiment, MeanPool, Reshape, TConv

try:
    import jax
    import jax.numpy as jnp
    import jaxlib
except ModuleNotFoundError:
    protocol.not_installed("JAX")

Array = Any  # JAX's arrays and trees of them; the library is optional, so its types are not at hand
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class JaxStep:
    """Weights, both sums of Adam and the number of steps live on the device and are updated in place."""

    def __init__(self, request: protocol.Request) -> None:
        jax.config.update("jax_platforms", "cpu")
        experiment = request.experiment
        layers, self.indices = plan(experiment), request.indices()
        self.key, key = jax.random.split(jax.random.key(request.seed))
        keys = jax.random.split(key, len(layers.nodes))
        weights = [initial(node, part) for node, part in zip(layers.nodes, keys, strict=True)]
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(weights))
        zeros = partial(jax.tree.map, jnp.zeros_like, weights)
        self.state = (weights, zeros(), zeros(), jnp.zeros((), jnp.int32))
        self.images = jnp.asarray(request.pixels())
        self.step = jax.jit(partial(step, layers, experiment), donate_argnums=0)

    def run(self, steps: int) -> list[float]:
        """Train; return each step's cost, nats per image."""
        costs = []
        for _ in range(steps):
            self.state, cost = self.step(self.state, self.images, next(self.indices), self.key)
            costs.append(cost)
        return [float(cost) for cost in costs]


def step(layers: Plan, experiment: Experiment, state: Array, images: Array, indices: Array, key: Array) -> Array:
    """One step of Adam. -> the new state and the cost, nats per image."""
    weights, means, squares, count = state
    noise = jax.random.normal(jax.random.fold_in(key, count), (len(indices), experiment.model.latent))
    value, gradients = jax.value_and_grad(partial(cost, layers))(weights, images[indices], noise)
    return (*adam(experiment.optim, weights, means, squares, count + 1, gradients), count + 1), value


def cost(layers: Plan, weights: Array, x: Array, noise: Array) -> Array:
    """The negative ELBO, nats per image. [B, H, W, C], [B, D] -> []."""
    split = len(layers.encoder)
    hidden = forward(layers.encoder, weights[:split], x)
    mean, log_variance = (forward([layers.head], [pair], hidden) for pair in weights[split : split + 2])
    z = mean + jnp.exp(0.5 * log_variance) * noise
    logits = forward(layers.decoder, weights[split + 2 :], z).reshape(x.shape)
    reconstruction = jnp.sum(jax.nn.softplus(logits) - x * logits)
    kl = -0.5 * jnp.sum(1 + log_variance - jnp.square(mean) - jnp.exp(log_variance))
    return (reconstruction + kl) / len(x)


def adam(settings: Adam, weights: Array, means: Array, squares: Array, count: Array, gradients: Array) -> Array:
    """Adam's update, both corrections in the rate as in TensorFlow. -> weights, means, squares."""
    beta1, beta2 = settings.beta1, settings.beta2
    means = jax.tree.map(lambda mean, g: beta1 * mean + (1 - beta1) * g, means, gradients)
    squares = jax.tree.map(lambda square, g: beta2 * square + (1 - beta2) * g * g, squares, gradients)
    rate = settings.lr * jnp.sqrt(1 - beta2**count) / (1 - beta1**count)
    update = partial(jax.tree.map, lambda w, mean, square: w - rate * mean / (jnp.sqrt(square) + settings.epsilon))
    return update(weights, means, squares), means, squares


def initial(node: Node, key: Array) -> tuple[Array, ...]:
    """First weights and biases of a layer; none for a layer without."""
    if not node.weight_shape:
        return ()
    weights = protocol.WEIGHT_STD * jax.random.truncated_normal(key, -2, 2, node.weight_shape)
    return weights, jnp.zeros(node.weight_shape[-1])


def forward(nodes: Any, weights: Array, x: Array) -> Array:
    """Through layers, each with its weights and activation."""
    for node, pair in zip(nodes, weights, strict=True):
        x = layer(node, pair, x)
        x = x if node.activation == "identity" else getattr(jax.nn, node.activation)(x)
    return x


def layer(node: Node, pair: tuple[Array, ...], x: Array) -> Array:
    """One layer without its activation."""
    match node.layer:
        case Dense():
            return x.reshape(len(x), -1) @ pair[0] + pair[1]
        case Conv():
            return jax.lax.conv_general_dilated(x, pair[0], (1, 1), "SAME", dimension_numbers=DIMENSIONS) + pair[1]
        case TConv(stride=stride):
            strides = (stride, stride)
            return jax.lax.conv_transpose(x, pair[0], strides, "SAME", dimension_numbers=DIMENSIONS) + pair[1]
        case MeanPool(size=size):
            batch, height, width, channels = x.shape
            return x.reshape(batch, height // size, size, width // size, size, channels).mean((2, 4))
        case Reshape(channels=channels, height=height, width=width):
            return x.reshape(len(x), height, width, channels)
    return None


if __name__ == "__main__":
    protocol.main("jax_step", JaxStep, {"jax": jax.__version__, "jaxlib": jaxlib.__version__})
