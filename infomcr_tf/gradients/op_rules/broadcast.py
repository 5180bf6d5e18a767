"""Parameters that are broadcast over the examples: scales, offsets, class tokens, positions.

Every example is given a copy of the parameter; the gradient of the copies is the gradient of each
example. That is so for any operation that treats each entry of its output alone.
"""

import tensorflow as tf

from infomcr_tf.gradients.blocks import Block
from infomcr_tf.gradients.op_rules.layout import batch_axis, positions, sum_of_calls
from infomcr_tf.gradients.uses import Use

ELEMENTWISE = (
    *("AddV2", "Add", "Sub", "Mul", "MulNoNan", "RealDiv", "DivNoNan", "Xdivy", "Xlogy"),
    *("Maximum", "Minimum", "Pow", "SquaredDifference", "Atan2", "SelectV2", "FloorMod"),
)


# The gradient of an input in terms of the output's, where that takes no copies.
_LINEAR = {
    **dict.fromkeys(("AddV2", "Add"), lambda _, d: d),
    "Sub": lambda use, d: -d if use.index else d,
    "Mul": lambda use, d: d * use.op.inputs[1 - use.index],
}


def elementwise(uses: list[Use], gradients: list[tf.Tensor], like: tf.Tensor) -> Block | None:
    """Operations with inputs of broadcasting shapes."""
    axis = _axis(uses[0], gradients[0])
    if axis is None or any(_axis(use, d) != axis for use, d in zip(uses, gradients, strict=True)):
        return None
    if uses[0].op.type in _LINEAR:
        through = [_LINEAR[u.op.type](u, d) for u, d in zip(uses, gradients, strict=True)]
        return broadcast(uses, through, like)
    rank = gradients[0].shape.rank
    length = tf.shape(gradients[0])[axis]
    copies = tf.reshape(like, _aligned(like, rank))
    copies = tf.tile(copies, [*[1] * axis, length, *[1] * (rank - axis - 1)])
    again = []
    for use in uses:
        names = [argument.name for argument in use.op.op_def.input_arg]
        inputs = dict(zip(names, use.op.inputs, strict=True))
        again.append(getattr(tf.raw_ops, use.op.type)(**{**inputs, names[use.index]: copies}))
    (rows,) = tf.gradients(again, [copies], grad_ys=gradients)
    if rows is None:
        return None
    return sum_of_calls([[_by_example(tf.convert_to_tensor(rows), axis, uses[0])]])


def broadcast(uses: list[Use], gradients: list[tf.Tensor], like: tf.Tensor) -> Block | None:
    """`BroadcastTo`, and `Tile` along axes of length one."""
    rows = []
    for use, gradient in zip(uses, gradients, strict=True):
        axis = _axis(use, gradient)
        if axis is None:
            return None
        sizes = list(zip(_aligned(like, gradient.shape.rank), gradient.shape, strict=True))
        if any(own not in (1, size) for own, size in sizes):
            return None
        over = [i for i, (own, size) in enumerate(sizes) if own == 1 != size and i != axis]
        if over:
            gradient = tf.reduce_sum(gradient, over, keepdims=True)
        rows.append([_by_example(gradient, axis, use)])
    return sum_of_calls(rows)


def _aligned(like: tf.Tensor, rank: int) -> list[int]:
    """The shape of a parameter as broadcasting reads it: with ones in front."""
    return [1] * (rank - like.shape.rank) + list(like.shape)


def bias_add(uses: list[Use], gradients: list[tf.Tensor], _: tf.Tensor) -> Block | None:
    """`BiasAdd`, of one vector along the axis of channels."""
    rows = []
    for use, gradient in zip(uses, gradients, strict=True):
        if batch_axis(gradient) != 0 or use.by_position:
            return None
        if use.op.get_attr("data_format") == b"NCHW":
            gradient = tf.transpose(gradient, [0, *range(2, gradient.shape.rank), 1])
        flat = positions([gradient])
        flat = tf.reshape(flat, [-1, use.repeats * flat.shape[1], flat.shape[2]])
        rows.append([tf.reduce_sum(flat, axis=1)])
    return sum_of_calls(rows)


def _axis(use: Use, gradient: tf.Tensor) -> int | None:
    """The axis of the examples in the output, where the parameter is broadcast over it."""
    axis = batch_axis(gradient)
    parameter = use.parameter.shape
    if axis is None or use.by_position or None in list(parameter):
        return None
    own = axis - gradient.shape.rank + parameter.rank
    return axis if own < 0 or parameter[own] == 1 else None


def _by_example(rows: tf.Tensor, axis: int, use: Use) -> tf.Tensor:
    """[..., n * repeats, ...] as [n, size], added over the repeats."""
    rows = tf.transpose(rows, [axis, *(i for i in range(rows.shape.rank) if i != axis)])
    size = rows.shape[1:].num_elements()
    if use.repeats == 1:
        return tf.reshape(rows, [-1, size])
    return tf.reduce_sum(tf.reshape(rows, [-1, use.repeats, size]), axis=1)
