r"""Convolutions: at every offset of the kernel, a Dense layer on the shifted input.

$z_s = \sum_o W_o^T x_{s \cdot \text{stride} + o \cdot \text{dilation}} + b$, so the gradient of
$W_o$ is the sum over s of the outer products of shifted inputs and $d_s$. One product for each
offset, on a shifted slice, needs no copy of the input that is as many times larger as the kernel
has offsets. On a CPU, large maps of few channels go through oneDNN's grouped convolution instead.
"""

import functools
import itertools
import math
from collections.abc import Iterator

import keras
import tensorflow as tf

from infomcr_tf.gradients.blocks import OuterProducts, Rows
from infomcr_tf.gradients.layer_rules.dense import (
    Calls,
    Gradients,
    positions,
    sum_of_calls,
)


def convolution(layer: keras.layers.Layer, calls: Calls) -> Gradients:
    """The rule of `Conv1D`, `Conv2D` and `Conv3D`: strides, dilation, padding and groups."""
    calls = [_channels_last(layer, *call) for call in calls]
    num_positions = sum(math.prod(d.shape[1:-1]) for _, d in calls)
    p, q = math.prod(layer.kernel.shape[:-1]), layer.filters
    if layer.groups == 1 and OuterProducts.cheaper(num_positions, p, q):
        patches = [tf.concat(list(_shifted(layer, x, d)), axis=-1) for x, d in calls]
        kernel = OuterProducts(positions(patches), positions([d for _, d in calls]))
    else:
        rows = _as_one_grouped if _prefers_grouped(layer, calls) else _offset_by_offset
        kernel = sum_of_calls([rows(layer, x, d) for x, d in calls])
    return [(layer.kernel, kernel), *_bias(layer, calls)]


def depthwise_convolution(layer: keras.layers.Layer, calls: Calls) -> Gradients:
    """The rule of `DepthwiseConv1D` and `DepthwiseConv2D`."""
    rows = []
    calls = [_channels_last(layer, *call) for call in calls]
    for x, d in calls:
        flat = positions([d])
        flat = tf.reshape(flat, [-1, flat.shape[1], x.shape[-1], layer.depth_multiplier])
        shifted = _shifted(layer, x, d)
        rows.append([tf.einsum("nsc,nscm->ncm", positions([u]), flat) for u in shifted])
    return [(layer.kernel, sum_of_calls(rows)), *_bias(layer, calls)]


def _offset_by_offset(layer: keras.layers.Layer, x: tf.Tensor, d: tf.Tensor) -> list[tf.Tensor]:
    """For every offset the gradients [n, C / groups, filters]."""
    flat = positions([d])
    if layer.groups == 1:
        return [tf.matmul(positions([u]), flat, transpose_a=True) for u in _shifted(layer, x, d)]
    groups = layer.groups
    flat = tf.reshape(flat, [-1, flat.shape[1], groups, layer.filters // groups])
    parts = []
    for u in _shifted(layer, x, d):
        u = positions([u])
        u = tf.reshape(u, [-1, u.shape[1], groups, u.shape[2] // groups])
        parts.append(tf.einsum("nsgc,nsgf->ncgf", u, flat))
    return parts


def _prefers_grouped(layer: keras.layers.Layer, calls: Calls) -> bool:
    """Where the grouped form is faster, by measurement: oneDNN, large maps of few channels."""
    return (
        isinstance(layer, keras.layers.Conv2D)
        and math.prod(layer.kernel_size) > 1
        and layer.dilation_rate == (1, 1)
        and layer.strides[0] == layer.strides[1]
        and calls[0][0].dtype == tf.float32
        and max(layer.filters, layer.kernel.shape[2] * layer.groups) <= 64
        and min(math.prod(d.shape[1:-1]) for _, d in calls) >= 256
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


def _as_one_grouped(layer: keras.layers.Conv2D, x: tf.Tensor, d: tf.Tensor) -> list[tf.Tensor]:
    """The examples as groups of channels of one example of a grouped convolution."""
    n, size = tf.shape(x)[0], layer.kernel_size

    def side_by_side(t: tf.Tensor) -> tf.Tensor:
        height, width, channels = t.shape[1:]
        return tf.reshape(tf.transpose(t, [1, 2, 0, 3]), [1, height, width, n * channels])

    channels = layer.kernel.shape[2]
    gradients = tf.raw_ops.Conv2DBackpropFilter(
        input=side_by_side(x),
        filter_sizes=[*size, channels, n * layer.filters],
        out_backprop=side_by_side(d),
        strides=[1, *layer.strides, 1],
        padding=layer.padding.upper(),
    )
    gradients = tf.reshape(gradients, [*size, channels, n, layer.filters])
    return [tf.transpose(gradients, [3, 0, 1, 2, 4])]


def _bias(layer: keras.layers.Layer, calls: Calls) -> Gradients:
    if not layer.use_bias:
        return []
    return [(layer.bias, Rows((tf.reduce_sum(positions([d for _, d in calls]), axis=1),)))]


def _channels_last(
    layer: keras.layers.Layer, x: tf.Tensor, d: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    if layer.data_format == "channels_last":
        return x, d
    axes = [0, *range(2, x.shape.rank), 1]
    return tf.transpose(x, axes), tf.transpose(d, axes)


def _shifted(layer: keras.layers.Layer, x: tf.Tensor, d: tf.Tensor) -> Iterator[tf.Tensor]:
    """For every offset of the kernel, the inputs that meet it, in the shape of the output."""
    outputs = d.shape[1:-1]
    spans = [
        (k - 1) * dilation + 1
        for k, dilation in zip(layer.kernel_size, layer.dilation_rate, strict=True)
    ]
    x = tf.pad(x, [(0, 0), *_padding(layer, x.shape[1:-1], outputs, spans), (0, 0)])
    for offset in itertools.product(*(range(k) for k in layer.kernel_size)):
        windows = [
            slice(o * dilation, o * dilation + (length - 1) * stride + 1, stride)
            for o, dilation, stride, length in zip(
                offset, layer.dilation_rate, layer.strides, outputs, strict=True
            )
        ]
        yield x[(slice(None), *windows)]


def _padding(
    layer: keras.layers.Layer, inputs: list[int], outputs: list[int], spans: list[int]
) -> list[tuple[int, int]]:
    """Zeros before and after each axis."""
    if layer.padding == "valid":
        return [(0, 0) for _ in inputs]
    totals = [
        max((out - 1) * stride + span - size, 0)
        for size, out, stride, span in zip(inputs, outputs, layer.strides, spans, strict=True)
    ]
    if layer.padding == "causal":
        return [(span - 1, 0) for span in spans]
    return [(total // 2, total - total // 2) for total in totals]
