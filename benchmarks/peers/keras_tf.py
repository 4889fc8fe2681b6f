"""TensorFlow 2: the original program's graph, channels last, compiled by tf.function, images in memory as float32."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .workload import Layer, Request, as_floats, batches

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no greetings on standard error

import tensorflow as tf

TensorLike = Any  # TensorFlow's tensors and variables; the library is optional, so its types are not at hand
SMALLEST = 1e-10  # added before each logarithm, as the original does
VERSIONS = {"tensorflow": tf.__version__}


class Peer:
    """One step is one graph: take the batch, forwards, backwards, Adam as TensorFlow's own fused operation."""

    def __init__(self, request: Request, images: NDArray[np.uint8]) -> None:
        tf.config.threading.set_intra_op_parallelism_threads(request.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.random.set_seed(request.seed)
        self.workload, self.adam = request.workload, request.workload.adam
        self.indices = batches(self.workload, request.seed)
        self.images = tf.constant(as_floats(images))
        self.weights = [variables(layer, self.workload.weight_std) for layer in self.workload.layers]
        flat = [variable for pair in self.weights for variable in pair]
        self.slots = [(variable, *(tf.Variable(tf.zeros_like(variable)) for _ in range(2))) for variable in flat]
        self.powers = [tf.Variable(beta) for beta in (self.adam.beta1, self.adam.beta2)]
        self.parameters = sum(variable.shape.num_elements() for variable in flat)
        signature = [tf.TensorSpec([self.workload.batch_size], tf.int32)]
        self.step = tf.function(self._step, signature, autograph=False)

    def run(self, steps: int) -> list[float]:
        costs = [self.step(next(self.indices)) for _ in range(steps)]
        return [float(cost) for cost in costs]

    def _step(self, indices: TensorLike) -> TensorLike:
        x = tf.gather(self.images, indices)
        with tf.GradientTape() as tape:
            cost = self._cost(x)
        gradients = tape.gradient(cost, [variable for variable, _, _ in self.slots])
        settings = {key: getattr(self.adam, key) for key in ("lr", "beta1", "beta2", "epsilon")}
        settings |= {"beta1_power": self.powers[0], "beta2_power": self.powers[1]}
        for slots, gradient in zip(self.slots, gradients, strict=True):
            var, m, v = (slot.handle for slot in slots)
            tf.raw_ops.ResourceApplyAdam(var=var, m=m, v=v, grad=gradient, **settings)
        for power, beta in zip(self.powers, (self.adam.beta1, self.adam.beta2), strict=True):
            power.assign(power * beta)
        return cost

    def _cost(self, x: TensorLike) -> TensorLike:
        """Return the negative ELBO with one draw of z, nats per image. [B, H, W, C] -> []."""
        split = len(self.workload.encoder)
        hidden = forward(self.workload.encoder, self.weights[:split], x)
        mean, log_variance = (forward([self.workload.head], [pair], hidden) for pair in self.weights[split : split + 2])
        z = mean + tf.exp(0.5 * log_variance) * tf.random.normal(mean.shape)
        y = tf.sigmoid(forward(self.workload.decoder, self.weights[split + 2 :], z))
        y = tf.reshape(y, x.shape)
        reconstruction = -tf.reduce_sum(x * tf.math.log(SMALLEST + y) + (1 - x) * tf.math.log(SMALLEST + 1 - y))
        kl = -0.5 * tf.reduce_sum(1 + log_variance - tf.square(mean) - tf.exp(log_variance))
        return (reconstruction + kl) / self.workload.batch_size


def variables(layer: Layer, std: float) -> tuple[TensorLike, ...]:
    """Return first weights and biases of a layer, () for a layer without."""
    if not layer.weight_shape:
        return ()
    *kernel, inputs, outputs = layer.weight_shape
    shape = (*kernel, outputs, inputs) if layer.kind == "tconv" else layer.weight_shape
    weights = tf.random.truncated_normal(shape, stddev=std)
    return tf.Variable(weights), tf.Variable(tf.zeros(outputs))


def forward(layers: Sequence[Layer], weights: Any, x: TensorLike) -> TensorLike:
    for layer, pair in zip(layers, weights, strict=True):
        x = apply(layer, pair, x)
        x = x if layer.activation == "identity" else getattr(tf.nn, layer.activation)(x)
    return x


def apply(layer: Layer, pair: tuple[TensorLike, ...], x: TensorLike) -> TensorLike:
    match layer.kind:
        case "dense":
            return tf.nn.bias_add(tf.matmul(tf.reshape(x, (-1, layer.inputs)), pair[0]), pair[1])
        case "conv":
            return tf.nn.bias_add(tf.nn.conv2d(x, pair[0], 1, "SAME"), pair[1])
        case "tconv":
            shape = (x.shape[0], *layer.gives)
            return tf.nn.bias_add(tf.nn.conv2d_transpose(x, pair[0], shape, layer.stride, "SAME"), pair[1])
        case "mean_pool":
            return tf.nn.avg_pool2d(x, layer.kernel, layer.kernel, "VALID")
        case "reshape":
            return tf.reshape(x, (x.shape[0], *layer.gives))
