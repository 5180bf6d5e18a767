r"""Dense: $z_s = W^T u_s + b$ at positions s, so $g_W = \sum_s u_s d_s^T$, $g_b = \sum_s d_s$."""

import math

import keras
import tensorflow as tf

from infomcr_tf.gradients.blocks import Block, OuterProducts, Rows

Calls = list[tuple[tf.Tensor, tf.Tensor]]
Gradients = list[tuple[keras.Variable, Block]]

# Columns up to which joining the parts of a gradient costs less than treating them one by one.
_WIDE = 65536


def dense(layer: keras.layers.Dense, calls: Calls) -> Gradients:
    """The rule of `Dense`, on inputs with any number of axes."""
    inputs = positions([x for x, _ in calls])
    gradients = positions([d for _, d in calls])
    blocks = [(layer.kernel, outer_products(inputs, gradients))]
    if layer.use_bias:
        blocks.append((layer.bias, Rows((tf.reduce_sum(gradients, axis=1),))))
    return blocks


def positions(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Brings [n, ..., C] into [n, S, C] and joins the positions of several calls."""
    flat = [tf.reshape(t, [-1, math.prod(t.shape[1:-1]), t.shape[-1]]) for t in tensors]
    return flat[0] if len(flat) == 1 else tf.concat(flat, axis=1)


def outer_products(u: tf.Tensor, v: tf.Tensor) -> Block:
    """The sum over positions of u_s v_s^T, in the cheaper form. u [n, S, P], v [n, S, Q]."""
    if OuterProducts.cheaper(u.shape[1], u.shape[2], v.shape[2]):
        return OuterProducts(u, v)
    return sum_of_calls([[tf.matmul(u, v, transpose_a=True)]])


def sum_of_calls(calls: list[list[tf.Tensor]]) -> Rows:
    """Adds the gradients of several calls, each in parts [n, ...]."""
    parts = [tf.add_n(same) if len(calls) > 1 else same[0] for same in zip(*calls, strict=True)]
    flat = [tf.reshape(part, [-1, math.prod(part.shape[1:])]) for part in parts]
    if sum(part.shape[1] for part in flat) <= _WIDE:
        return Rows((tf.concat(flat, axis=1),))
    return Rows(tuple(flat))
