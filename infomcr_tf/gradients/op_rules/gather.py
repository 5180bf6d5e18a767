"""Look-ups in a table: the gradient of a token's row is the sum of d over the token's positions."""

import math

import tensorflow as tf

from infomcr_tf.gradients.blocks import Block, Lookups
from infomcr_tf.gradients.op_rules.layout import batch_axis
from infomcr_tf.gradients.uses import Use


def gather(uses: list[Use], gradients: list[tf.Tensor], like: tf.Tensor) -> Block | None:
    """`GatherV2` along the first axis of a table."""
    tokens, rows = [], []
    for use, gradient in zip(uses, gradients, strict=True):
        indices = use.op.inputs[1]
        if (
            use.index != 0
            or tf.get_static_value(use.op.inputs[2]) != 0
            or use.op.get_attr("batch_dims") != 0
            or batch_axis(indices) != 0
            or use.by_position
        ):
            return None
        count = use.repeats * math.prod(indices.shape[1:])
        tokens.append(tf.reshape(tf.cast(indices, tf.int32), [-1, count]))
        rows.append(tf.reshape(gradient, [-1, count, math.prod(like.shape[1:])]))
    return Lookups.of(tf.concat(tokens, axis=1), tf.concat(rows, axis=1), like.shape[0])
