r"""Normalisations: $y = \gamma \hat x + \beta$, so $g_\gamma = \sum \hat x d$, $g_\beta = \sum d$."""

import math

import keras
import tensorflow as tf

from infomcr_tf.characterization.blocks import Rows
from infomcr_tf.characterization.layer_rules.dense import Calls, Gradients


def normalization(layer: keras.layers.Layer, calls: Calls) -> Gradients:
    """The rule of `BatchNormalization` (inference), `Layer-` and `GroupNormalization`."""
    blocks = []
    if getattr(layer, "gamma", None) is not None:
        rows = [_summed(layer, d * _normalized(layer, x)) for x, d in calls]
        blocks.append((layer.gamma, Rows(tf.add_n(rows))))
    if getattr(layer, "beta", None) is not None:
        blocks.append((layer.beta, Rows(tf.add_n([_summed(layer, d) for _, d in calls]))))
    return blocks


def _summed(layer: keras.layers.Layer, values: tf.Tensor) -> tf.Tensor:
    """Sums over all axes but the examples' and the parameters'; [n, size]."""
    rank = values.shape.rank
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    kept = {0, *(axis % rank for axis in axes)}
    values = tf.reduce_sum(values, axis=[axis for axis in range(rank) if axis not in kept])
    return tf.reshape(values, [-1, math.prod(values.shape[1:])])


def _normalized(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """x hat: what the layer gives with gamma = 1 and beta = 0."""
    plain = [(layer.gamma, tf.ones(layer.gamma.shape, layer.gamma.dtype))]
    if getattr(layer, "beta", None) is not None:
        plain.append((layer.beta, tf.zeros(layer.beta.shape, layer.beta.dtype)))
    with keras.StatelessScope(plain):
        return layer.call(x)
