r"""Products with a parameter: at positions s, $z_s = W^T u_s$, so $g = \sum_s u_s d_s^T$.

Every product is written as an Einstein sum; an axis is one of the examples (n), of positions that
share the parameter (S), of pairs that meet one slice of it each (G), summed over (P) or new (Q).
"""

import math
import string

import tensorflow as tf

from infomcr_tf.gradients.blocks import Block, Rows
from infomcr_tf.gradients.op_rules.layout import batch_axis, by_example, outer_products
from infomcr_tf.gradients.uses import Use


def matmul(uses: list[Use], gradients: list[tf.Tensor], like: tf.Tensor) -> Block | None:
    """`MatMul` of [n * positions, P] with a parameter."""
    op, index = uses[0].op, uses[0].index
    if index != 1 or op.get_attr("transpose_a"):
        return None
    inner = like.shape[1 if op.get_attr("transpose_b") else 0]
    calls = [
        (by_example(tf.ensure_shape(use.op.inputs[0], [None, inner]), use), by_example(d, use))
        for use, d in zip(uses, gradients, strict=True)
    ]
    if any(tensor is None for call in calls for tensor in call):
        return None
    parameter = "qp" if op.get_attr("transpose_b") else "pq"
    return _gradient(calls, "nsp", parameter, "nsq", like)


def batch_matmul(uses: list[Use], gradients: list[tf.Tensor], like: tf.Tensor) -> Block | None:
    """`BatchMatMul` of examples with a parameter on either side; its leading axes broadcast."""
    op, index = uses[0].op, uses[0].index
    x, parameter = op.inputs[1 - index], op.inputs[index]
    leading = max(x.shape.rank, parameter.shape.rank) - 2
    letters = string.ascii_lowercase[:leading]
    rows, inner, columns = "xyz"
    left = rows + inner if not op.get_attr("adj_x") else inner + rows
    right = inner + columns if not op.get_attr("adj_y") else columns + inner
    sides = [letters[leading + 2 - t.shape.rank :] for t in op.inputs[:2]]
    labels = [sides[0] + left, sides[1] + right]
    calls = [(use.op.inputs[1 - index], d) for use, d in zip(uses, gradients, strict=True)]
    return _gradient(calls, labels[1 - index], labels[index], letters + rows + columns, like)


def einsum(uses: list[Use], gradients: list[tf.Tensor], like: tf.Tensor) -> Block | None:
    """`Einsum` of examples and a parameter."""
    op, index = uses[0].op, uses[0].index
    equation = op.get_attr("equation").decode().replace(" ", "")
    if len(op.inputs) != 2 or "." in equation:
        return None
    inputs, output = equation.split("->")
    labels = inputs.split(",")
    calls = [(use.op.inputs[1 - index], d) for use, d in zip(uses, gradients, strict=True)]
    return _gradient(calls, labels[1 - index], labels[index], output, like)


def _gradient(
    calls: list[tuple[tf.Tensor, tf.Tensor]], x: str, parameter: str, output: str, like: tf.Tensor
) -> Block | None:
    """The gradient of a parameter in `x, parameter -> output`, given (x, gradient of output)."""
    axis = batch_axis(*(tensor for tensor, _ in calls))
    if axis is None or any(len(set(labels)) < len(labels) for labels in (x, parameter, output)):
        return None
    n = x[axis]
    # An axis of length one broadcasts: it is no axis of that side.
    sizes = dict(zip(parameter, like.shape, strict=True))
    parameter = "".join(label for label in parameter if sizes[label] != 1 or label not in output)
    first = calls[0][0].shape
    x_kept = "".join(s for s, size in zip(x, first, strict=True) if size != 1 or s not in output)
    if n not in output or n in parameter or batch_axis(*(d for _, d in calls)) != output.index(n):
        return None
    if set(parameter) - set(x_kept) - set(output):
        return None
    groups = [s for s in x_kept if s in output and s in parameter]
    shared = [s for s in output if s not in parameter and s != n]
    summed = [s for s in parameter if s in x_kept and s not in output]
    new = [s for s in parameter if s in output and s not in x_kept]
    sizes |= {s: size for s, size in zip(output, calls[0][1].shape, strict=True) if s not in sizes}

    def ordered(tensor: tf.Tensor, subscripts: str, last: list[str]) -> tf.Tensor:
        """[n, G, S, last], with axes that are not in the result summed over."""
        wanted = [n, *groups, *shared, *last]
        gone = [i for i, s in enumerate(subscripts) if s not in wanted]
        tensor = tf.reduce_sum(tensor, gone) if gone else tensor
        given = [s for s in subscripts if s in wanted]
        present = [s for s in wanted if s in given]
        tensor = tf.transpose(tensor, [given.index(s) for s in present])
        for i, s in enumerate(wanted):  # positions that the examples are broadcast over
            if s not in present:
                tensor = tf.repeat(tf.expand_dims(tensor, i), sizes[s], axis=i)
        lengths = [[sizes[s] for s in part] for part in (groups, shared, last)]
        return tf.reshape(tensor, [-1, *(math.prod(part) for part in lengths)])

    def without_ones(tensor: tf.Tensor) -> tf.Tensor:
        gone = [i for i, s in enumerate(x) if s not in x_kept]
        return tf.squeeze(tensor, gone) if gone else tensor

    # All calls have the same shape: side by side, they are further positions.
    shared.insert(0, calls_axis := "#")
    sizes[calls_axis] = len(calls)
    u, v = (
        tf.stack(list(tensors), axis=labels.index(n) + 1)
        for tensors, labels in zip(zip(*calls, strict=True), (x, output), strict=True)
    )
    x, x_kept, output = (s.replace(n, n + calls_axis) for s in (x, x_kept, output))
    u, v = ordered(without_ones(u), x_kept, summed), ordered(v, output, new)
    if not groups and list(parameter) in (summed + new, new + summed):
        u, v = tf.squeeze(u, 1), tf.squeeze(v, 1)
        return outer_products(u, v) if list(parameter) == summed + new else outer_products(v, u)
    rows = tf.matmul(u, v, transpose_a=True)
    found = [*groups, *summed, *new]
    rows = tf.reshape(rows, [-1, *(sizes[s] for s in found)])
    rows = tf.transpose(rows, [0, *(1 + found.index(s) for s in parameter)])
    return Rows((tf.reshape(rows, [-1, math.prod(like.shape)]),))
