"""Embedding: the gradient of a token's row is the sum of d over the positions of the token."""

import keras
import tensorflow as tf

from infomcr_tf.gradients.blocks import Rows
from infomcr_tf.gradients.layer_rules.dense import Calls, Gradients, positions


def embedding(layer: keras.layers.Embedding, calls: Calls) -> Gradients:
    """The rule of `Embedding`."""
    tokens = positions([tf.cast(x, tf.int32)[..., None] for x, _ in calls])[..., 0]
    gradients = positions([d for _, d in calls])
    n = tf.shape(tokens)[0]
    segments = tokens + layer.input_dim * tf.range(n)[:, None]
    rows = tf.math.unsorted_segment_sum(gradients, segments, n * layer.input_dim)
    rows = tf.reshape(rows, [-1, layer.input_dim * layer.output_dim])
    return [(layer.embeddings, Rows((rows,)))]
