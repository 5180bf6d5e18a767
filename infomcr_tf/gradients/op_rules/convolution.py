r"""Convolutions: at every offset of the kernel, a product with the shifted input.

$z_s = \sum_o W_o^T x_{s \cdot \text{stride} + o \cdot \text{dilation}}$, so the gradient of
$W_o$ is the sum over s of the outer products of shifted inputs and $d_s$. One product for each
offset, on a shifted slice, needs no copy of the input that is as many times larger as the kernel
has offsets. On a CPU, large maps of few channels go through oneDNN's grouped convolution instead.
A transposed convolution is the same with the input and the output's gradient exchanged.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

from infomcr_tf.gradients.blocks import Block, OuterProducts
from infomcr_tf.gradients.op_rules.layout import batch_axis, by_example, positions, sum_of_calls
from infomcr_tf.gradients.uses import Use

_KINDS = ("Conv2D", "Conv3D", "DepthwiseConv2dNative")
Pair = tuple[tf.Tensor, tf.Tensor]


class _Geometry(NamedTuple):
    """What a convolution does along its spatial axes, and its kernel [*window, C, F]."""

    window: list[int]
    strides: list[int]
    dilations: list[int]
    padding: str
    explicit: list[tuple[int, int]]
    channels: int
    filters: int


def convolution(uses: list[Use], gradients: list[tf.Tensor], like: tf.Tensor) -> Block | None:
    """`Conv2D` and `Conv3D`: strides, dilation, padding and groups."""
    pairs = [
        pair
        for use, d in zip(uses, gradients, strict=True)
        for pair in _pairs(use, use.op, use.op.inputs[0], d)
    ]
    return _rows(uses[0].op, pairs, like)


def transposed_convolution(
    uses: list[Use], gradients: list[tf.Tensor], like: tf.Tensor
) -> Block | None:
    """`Conv2DBackpropInput` and `Conv3DBackpropInputV2` with a kernel that is a parameter."""
    pairs = [
        pair
        for use, d in zip(uses, gradients, strict=True)
        for pair in _pairs(use, use.op, d, use.op.inputs[2])
    ]
    return _rows(uses[0].op, pairs, like)


def compiled(uses: list[Use], gradients: list[tf.Tensor], like: tf.Tensor) -> Block | None:
    """A call of a function that is one convolution: how Keras runs grouped ones on a CPU."""
    name = uses[0].op.get_attr("f").name
    function = uses[0].op.graph._get_function(name)
    inner = [op for op in function.graph.get_operations() if op.type in _KINDS]
    others = {op.type for op in function.graph.get_operations()} - {*_KINDS, "Placeholder"}
    inputs = uses[0].op.inputs
    if len(inner) != 1 or len(inputs) != 2 or others - {"Identity", "NoOp", "Const"}:
        return None
    pairs = [
        pair
        for use, d in zip(uses, gradients, strict=True)
        for pair in _pairs(use, inner[0], use.op.inputs[1 - use.index], d)
    ]
    return _rows(inner[0], pairs, like)


def depthwise_convolution(
    uses: list[Use], gradients: list[tf.Tensor], like: tf.Tensor
) -> Block | None:
    """`DepthwiseConv2dNative`."""
    geometry = _geometry(uses[0].op, like)
    rows = []
    for use, gradient in zip(uses, gradients, strict=True):
        for x, d in _pairs(use, use.op, use.op.inputs[0], gradient):
            flat = positions([d])
            flat = tf.reshape(flat, [-1, flat.shape[1], geometry.channels, geometry.filters])
            shifted = _shifted(geometry, x, d)
            rows.append([tf.reduce_sum(positions([u])[..., None] * flat, axis=1) for u in shifted])
    return sum_of_calls(rows) if rows else None


def _pairs(use: Use, op: tf.Operation, x: tf.Tensor, d: tf.Tensor) -> list[Pair]:
    """Inputs and output gradients [n, ..., channels], one pair for every row an example has."""
    if op.get_attr("data_format") in (b"NCHW", b"NCDHW"):
        axes = [0, *range(2, x.shape.rank), 1]
        x, d = tf.transpose(x, axes), tf.transpose(d, axes)
    if batch_axis(x, d) != 0:
        return []
    if use.repeats == 1:
        return [(x, d)]
    x, d = by_example(x, use), by_example(d, use)
    return list(zip(tf.unstack(x, axis=1), tf.unstack(d, axis=1), strict=True))


def _geometry(op: tf.Operation, like: tf.Tensor) -> _Geometry:
    first = op.get_attr("data_format") in (b"NCHW", b"NCDHW")
    rank = like.shape.rank - 2
    spatial = slice(2, 2 + rank) if first else slice(1, 1 + rank)
    explicit = [0] * (2 * rank + 4)
    if "explicit_paddings" in op.op_def.attr and op.get_attr("explicit_paddings"):
        explicit = list(op.get_attr("explicit_paddings"))
    pairs = list(zip(explicit[::2], explicit[1::2], strict=True))
    return _Geometry(
        window=list(like.shape[:-2]),
        strides=list(op.get_attr("strides"))[spatial],
        dilations=list(op.get_attr("dilations"))[spatial],
        padding=op.get_attr("padding").decode(),
        explicit=pairs[spatial],
        channels=like.shape[-2],
        filters=like.shape[-1],
    )


def _rows(op: tf.Operation, pairs: list[Pair], like: tf.Tensor) -> Block | None:
    if not pairs:
        return None
    geometry = _geometry(op, like)
    groups = pairs[0][0].shape[-1] // geometry.channels
    num_positions = sum(math.prod(d.shape[1:-1]) for _, d in pairs)
    p, q = math.prod(geometry.window) * geometry.channels, geometry.filters
    if groups == 1 and OuterProducts.cheaper(num_positions, p, q):
        patches = [tf.concat(list(_shifted(geometry, x, d)), axis=-1) for x, d in pairs]
        return OuterProducts(positions(patches), positions([d for _, d in pairs]))
    if _prefers_grouped(geometry, groups, pairs):
        return sum_of_calls([_as_one_grouped(geometry, x, d) for x, d in pairs])
    return sum_of_calls([_offset_by_offset(geometry, groups, x, d) for x, d in pairs])


def _offset_by_offset(
    geometry: _Geometry, groups: int, x: tf.Tensor, d: tf.Tensor
) -> list[tf.Tensor]:
    """For every offset the gradients [n, C / groups, filters]."""
    flat = positions([d])
    shifted = (positions([u]) for u in _shifted(geometry, x, d))
    if groups == 1:
        return [tf.matmul(u, flat, transpose_a=True) for u in shifted]
    flat = tf.reshape(flat, [-1, flat.shape[1], groups, geometry.filters // groups])
    parts = []
    for u in shifted:
        u = tf.reshape(u, [-1, u.shape[1], groups, geometry.channels])
        parts.append(tf.einsum("nsgc,nsgf->ncgf", u, flat))
    return parts


def _prefers_grouped(geometry: _Geometry, groups: int, pairs: list[Pair]) -> bool:
    """Where the grouped form is faster, by measurement: oneDNN, large maps of few channels."""
    return (
        len(geometry.window) == 2
        and math.prod(geometry.window) > 1
        and geometry.dilations == [1, 1]
        and geometry.strides[0] == geometry.strides[1]
        and geometry.padding in ("SAME", "VALID")
        and groups == 1
        and pairs[0][0].dtype == tf.float32
        and max(geometry.filters, geometry.channels) <= 64
        and min(math.prod(d.shape[1:-1]) for _, d in pairs) >= 256
        and _has_grouped_gradients()
    )


@functools.cache
def _has_grouped_gradients() -> bool:
    """Whether TensorFlow has gradients of grouped convolutions on the CPU (with oneDNN only)."""
    if tf.config.list_logical_devices("GPU"):
        return False
    with tf.init_scope(), tf.device("CPU"):
        x = tf.zeros([1, 4, 4, 4])
        try:
            tf.raw_ops.Conv2DBackpropFilter(
                input=x, filter_sizes=[3, 3, 2, 4], out_backprop=x, strides=[1] * 4, padding="SAME"
            )
        except tf.errors.OpError:
            return False
    return True


def _as_one_grouped(geometry: _Geometry, x: tf.Tensor, d: tf.Tensor) -> list[tf.Tensor]:
    """The examples as groups of channels of one example of a grouped convolution."""
    n, window = tf.shape(x)[0], geometry.window

    def side_by_side(t: tf.Tensor) -> tf.Tensor:
        height, width, channels = t.shape[1:]
        return tf.reshape(tf.transpose(t, [1, 2, 0, 3]), [1, height, width, n * channels])

    gradients = tf.raw_ops.Conv2DBackpropFilter(
        input=side_by_side(x),
        filter_sizes=[*window, geometry.channels, n * geometry.filters],
        out_backprop=side_by_side(d),
        strides=[1, *geometry.strides, 1],
        padding=geometry.padding,
    )
    gradients = tf.reshape(gradients, [*window, geometry.channels, n, geometry.filters])
    return [tf.transpose(gradients, [3, 0, 1, 2, 4])]


def _shifted(geometry: _Geometry, x: tf.Tensor, d: tf.Tensor) -> Iterator[tf.Tensor]:
    """For every offset of the kernel, the inputs that meet it, in the shape of the output."""
    outputs = d.shape[1:-1]
    padding = _padding(geometry, x.shape[1:-1], outputs)
    if any(map(any, padding)):
        x = tf.pad(x, [(0, 0), *padding, (0, 0)])
    for offset in itertools.product(*(range(k) for k in geometry.window)):
        windows = [
            slice(o * dilation, o * dilation + (length - 1) * stride + 1, stride)
            for o, dilation, stride, length in zip(
                offset, geometry.dilations, geometry.strides, outputs, strict=True
            )
        ]
        same = x.shape[1:-1] == outputs  # as with kernels of one offset
        index = (slice(None), *windows)
        yield x if same and set(geometry.strides) == {1} else x[index]


def _padding(geometry: _Geometry, inputs: list[int], outputs: list[int]) -> list[tuple[int, int]]:
    """Zeros before and after each axis."""
    if geometry.padding == "VALID":
        return [(0, 0) for _ in inputs]
    if geometry.padding == "EXPLICIT":
        return geometry.explicit
    spans = [(k - 1) * r + 1 for k, r in zip(geometry.window, geometry.dilations, strict=True)]
    totals = [
        max((out - 1) * stride + span - size, 0)
        for size, out, stride, span in zip(inputs, outputs, geometry.strides, spans, strict=True)
    ]
    return [(total // 2, total - total // 2) for total in totals]
