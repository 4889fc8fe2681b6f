"""TensorFlow 2: the original program's graph, channels last, compiled by tf.function, images in memory as float32.

python -m repro.benchmarks.peers.keras_tf mnist_fc --threads 1
"""

import os
from typing import Any

from repro.benchmarks.peers import protocol
from repro.benchmarks.peers.plan import Node, plan

from repro.spec import Conv, Dense, MeanPool, Reshape, TConv

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its greetings are not errors
try:
    import tensorflow as tf
except ModuleNotFoundError:
    protocol.not_installed("TensorFlow")

TensorLike = Any  # TensorFlow's tensors and variables; the library is optional, so its types are not at hand
SMALLEST = 1e-10  # added before each logarithm, as the original does


class KerasTf:
    """One step is one graph: take the batch, forwards, backwards, Adam as TensorFlow's own fused operation."""

    def __init__(self, request: protocol.Request) -> None:
        tf.config.threading.set_intra_op_parallelism_threads(request.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.random.set_seed(request.seed)
        experiment = request.experiment
        self.layers, self.optim, self.indices = plan(experiment), experiment.optim, request.indices()
        self.batch_size = experiment.training.batch_size
        self.images = tf.constant(request.pixels())
        self.weights = [variables(node) for node in self.layers.nodes]
        flat = [variable for pair in self.weights for variable in pair]
        self.slots = [(variable, *(tf.Variable(tf.zeros_like(variable)) for _ in range(2))) for variable in flat]
        self.powers = [tf.Variable(beta) for beta in (self.optim.beta1, self.optim.beta2)]
        self.parameters = sum(variable.shape.num_elements() for variable in flat)
        signature = [tf.TensorSpec([self.batch_size], tf.int32)]
        self.step = tf.function(self._step, signature, autograph=False)

    def run(self, steps: int) -> list[float]:
        """Train; return each step's cost, nats per image."""
        costs = [self.step(next(self.indices)) for _ in range(steps)]
        return [float(cost) for cost in costs]

    def _step(self, indices: TensorLike) -> TensorLike:
        x = tf.gather(self.images, indices)
        with tf.GradientTape() as tape:
            cost = self._cost(x)
        gradients = tape.gradient(cost, [variable for variable, _, _ in self.slots])
        for (variable, mean, square), gradient in zip(self.slots, gradients, strict=True):
            self._adam(variable, mean, square, gradient)
        for power, beta in zip(self.powers, (self.optim.beta1, self.optim.beta2), strict=True):
            power.assign(power * beta)
        return cost

    def _cost(self, x: TensorLike) -> TensorLike:
        """The negative ELBO with one draw of z, nats per image. [B, H, W, C] -> []."""
        split = len(self.layers.encoder)
        hidden = forward(self.layers.encoder, self.weights[:split], x)
        mean, log_variance = (forward([self.layers.head], [pair], hidden) for pair in self.weights[split : split + 2])
        z = mean + tf.exp(0.5 * log_variance) * tf.random.normal(mean.shape)
        y = tf.sigmoid(forward(self.layers.decoder, self.weights[split + 2 :], z))
        y = tf.reshape(y, x.shape)
        reconstruction = -tf.reduce_sum(x * tf.math.log(SMALLEST + y) + (1 - x) * tf.math.log(SMALLEST + 1 - y))
        kl = -0.5 * tf.reduce_sum(1 + log_variance - tf.square(mean) - tf.exp(log_variance))
        return (reconstruction + kl) / self.batch_size

    def _adam(self, variable: TensorLike, mean: TensorLike, square: TensorLike, gradient: TensorLike) -> None:
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=mean.handle,
            v=square.handle,
            beta1_power=self.powers[0],
            beta2_power=self.powers[1],
            lr=self.optim.lr,
            beta1=self.optim.beta1,
            beta2=self.optim.beta2,
            epsilon=self.optim.epsilon,
            grad=gradient,
        )


def variables(node: Node) -> tuple[TensorLike, ...]:
    """Weights and biases of a layer with their first values; none for a layer without."""
    if not node.weight_shape:
        return ()
    *kernel, inputs, outputs = node.weight_shape
    shape = (*kernel, outputs, inputs) if isinstance(node.layer, TConv) else node.weight_shape
    weights = tf.random.truncated_normal(shape, stddev=protocol.WEIGHT_STD)
    return tf.Variable(weights), tf.Variable(tf.zeros(outputs))


def forward(nodes: Any, weights: Any, x: TensorLike) -> TensorLike:
    """Through layers, each with its weights and activation."""
    for node, pair in zip(nodes, weights, strict=True):
        x = layer(node, pair, x)
        x = x if node.activation == "identity" else getattr(tf.nn, node.activation)(x)
    return x


def layer(node: Node, pair: tuple[TensorLike, ...], x: TensorLike) -> TensorLike:
    """One layer without its activation."""
    match node.layer:
        case Dense():
            return tf.nn.bias_add(tf.matmul(tf.reshape(x, (-1, node.inputs)), pair[0]), pair[1])
        case Conv():
            return tf.nn.bias_add(tf.nn.conv2d(x, pair[0], 1, "SAME"), pair[1])
        case TConv(stride=stride, channels=channels):
            batch, height, width, _ = x.shape
            shape = (batch, height * stride, width * stride, channels)
            return tf.nn.bias_add(tf.nn.conv2d_transpose(x, pair[0], shape, stride, "SAME"), pair[1])
        case MeanPool(size=size):
            return tf.nn.avg_pool2d(x, size, size, "VALID")
        case Reshape(channels=channels, height=height, width=width):
            return tf.reshape(x, (x.shape[0], height, width, channels))
    return None


if __name__ == "__main__":
    protocol.main("keras_tf", KerasTf, {"tensorflow": tf.__version__})
