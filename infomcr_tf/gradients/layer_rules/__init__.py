"""Per-example gradients of a layer's variables from its inputs and output gradients.

A rule is a function `(layer, calls) -> {variable: Block}`. `calls` holds, for every time that the
layer was called, its input and the gradient with respect to what it puts into its activation. The
gradient of a variable is the sum over the calls, so that shared layers need nothing special.

Rules are looked up by the exact class: a subclass may compute something else.
"""

from collections.abc import Callable

import keras

from infomcr_tf.gradients.layer_rules.convolution import convolution, depthwise_convolution
from infomcr_tf.gradients.layer_rules.dense import dense
from infomcr_tf.gradients.layer_rules.embedding import embedding
from infomcr_tf.gradients.layer_rules.normalization import (
    batch_normalization,
    normalization,
)

RULES: dict[type, Callable] = {
    keras.layers.Dense: dense,
    keras.layers.Conv1D: convolution,
    keras.layers.Conv2D: convolution,
    keras.layers.Conv3D: convolution,
    keras.layers.DepthwiseConv1D: depthwise_convolution,
    keras.layers.DepthwiseConv2D: depthwise_convolution,
    keras.layers.Embedding: embedding,
    keras.layers.BatchNormalization: batch_normalization,
    keras.layers.LayerNormalization: normalization,
    keras.layers.GroupNormalization: normalization,
}
