r"""Normalisations $y = \gamma \hat x + \beta$: $g_\gamma = \sum \hat x d$, $g_\beta = \sum d$."""

import keras
import tensorflow as tf

from infomcr_tf.gradients.layer_rules.dense import Calls, Gradients, sum_of_calls


def batch_normalization(layer: keras.layers.BatchNormalization, calls: Calls) -> Gradients:
    r"""The rule of `BatchNormalization` in inference: $\hat x = (x - \mu) / \sqrt{v + \epsilon}$.

    The division comes after the sum over positions.
    """
    rows = []
    for x, d in calls if layer.scale else []:
        shape = [1] * x.shape.rank
        shape[layer.axis] = -1
        mean = tf.reshape(tf.cast(layer.moving_mean.value, x.dtype), shape)
        variance = tf.cast(layer.moving_variance.value, x.dtype)
        rows.append([_summed(layer, d * (x - mean)) * tf.math.rsqrt(variance + layer.epsilon)])
    return _blocks(layer, rows, calls)


def normalization(layer: keras.layers.Layer, calls: Calls) -> Gradients:
    """The rule of `LayerNormalization` and `GroupNormalization`."""
    scale = getattr(layer, "gamma", None) is not None
    rows = [[_summed(layer, d * _normalized(layer, x))] for x, d in calls if scale]
    return _blocks(layer, rows, calls)


def _blocks(layer: keras.layers.Layer, scale_rows: list, calls: Calls) -> Gradients:
    blocks = []
    if scale_rows:
        blocks.append((layer.gamma, sum_of_calls(scale_rows)))
    if getattr(layer, "beta", None) is not None:
        blocks.append((layer.beta, sum_of_calls([[_summed(layer, d)] for _, d in calls])))
    return blocks


def _summed(layer: keras.layers.Layer, values: tf.Tensor) -> tf.Tensor:
    """Sums over all axes but the examples' and the parameters'."""
    rank = values.shape.rank
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    kept = {0, *(axis % rank for axis in axes)}
    return tf.reduce_sum(values, axis=[axis for axis in range(rank) if axis not in kept])


def _normalized(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    r"""$\hat x$: what the layer gives with gamma = 1 and beta = 0."""
    plain = [(layer.gamma, tf.ones(layer.gamma.shape, layer.gamma.dtype))]
    if getattr(layer, "beta", None) is not None:
        plain.append((layer.beta, tf.zeros(layer.beta.shape, layer.beta.dtype)))
    with keras.StatelessScope(plain):
        return layer.call(x)
