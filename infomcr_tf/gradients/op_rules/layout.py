"""Where examples and positions lie in a tensor."""

import math

import tensorflow as tf

from infomcr_tf.gradients.blocks import Block, OuterProducts, Rows
from infomcr_tf.gradients.uses import Use

# Columns up to which joining the parts of a gradient costs less than treating them one by one.
_WIDE = 4096


def batch_axis(*tensors: tf.Tensor) -> int | None:
    """The one axis without a static length, where all tensors have the same."""
    axes = {tuple(i for i, size in enumerate(t.shape) if size is None) for t in tensors}
    if len(axes) != 1:
        return None
    (unknown,) = axes
    return unknown[0] if len(unknown) == 1 else None


def by_example(tensor: tf.Tensor, use: Use) -> tf.Tensor | None:
    """[n * repeats, ...] as [n, repeats, ...]; None where the first axis is not the examples'."""
    if batch_axis(tensor) != 0:
        return None
    if use.by_position:
        tensor = tf.reshape(tensor, [use.repeats, -1, *tensor.shape[1:]])
        return tf.transpose(tensor, [1, 0, *range(2, tensor.shape.rank)])
    return tf.reshape(tensor, [-1, use.repeats, *tensor.shape[1:]])


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
    """Adds the gradients of several calls, each in parts [n, ...]; narrow parts are joined."""
    parts = [tf.add_n(same) if len(calls) > 1 else same[0] for same in zip(*calls, strict=True)]
    flat = [tf.reshape(part, [-1, math.prod(part.shape[1:])]) for part in parts]
    joined: list[list[tf.Tensor]] = []
    for part in flat:
        if not joined or sum(p.shape[1] for p in joined[-1]) + part.shape[1] > _WIDE:
            joined.append([])
        joined[-1].append(part)
    return Rows(tuple(p[0] if len(p) == 1 else tf.concat(p, axis=1) for p in joined))
