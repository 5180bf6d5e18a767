r"""Convolutions: at every offset of the kernel, a Dense layer on the shifted input.

$z_s = \sum_o W_o^T x_{s \cdot \text{stride} + o \cdot \text{dilation}} + b$, so the gradient of
$W_o$ is the sum over s of the outer products of shifted inputs and $d_s$. One product for each
offset on a shifted slice needs no copy of the input that is as many times larger as the kernel has
offsets.
"""

import itertools
import math
from collections.abc import Iterator

import keras
import tensorflow as tf

from infomcr_tf.characterization.blocks import OuterProducts, Rows
from infomcr_tf.characterization.layer_rules.dense import Calls, Gradients, positions


def convolution(layer: keras.layers.Layer, calls: Calls) -> Gradients:
    """The rule of `Conv1D`, `Conv2D` and `Conv3D`: strides, dilation, padding and groups."""
    calls = [_channels_last(layer, *call) for call in calls]
    num_positions = sum(math.prod(d.shape[1:-1]) for _, d in calls)
    p, q = math.prod(layer.kernel.shape[:-1]), layer.filters
    if layer.groups == 1 and OuterProducts.cheaper(num_positions, p, q):
        patches = [tf.concat(list(_shifted(layer, x, d)), axis=-1) for x, d in calls]
        kernel = OuterProducts(positions(patches), positions([d for _, d in calls]))
    else:
        kernel = Rows(tf.add_n([_kernel_rows(layer, x, d) for x, d in calls]))
    return [(layer.kernel, kernel), *_bias(layer, calls)]


def depthwise_convolution(layer: keras.layers.Layer, calls: Calls) -> Gradients:
    """The rule of `DepthwiseConv1D` and `DepthwiseConv2D`."""
    calls = [_channels_last(layer, *call) for call in calls]
    rows = []
    for x, d in calls:
        channels = x.shape[-1]
        flat = positions([d])
        flat = tf.reshape(flat, [-1, flat.shape[1], channels, layer.depth_multiplier])
        shifted = _shifted(layer, x, d)
        parts = [tf.einsum("nsc,nscm->ncm", positions([u]), flat) for u in shifted]
        rows.append(_joined(parts))
    return [(layer.kernel, Rows(tf.add_n(rows))), *_bias(layer, calls)]


def _kernel_rows(layer: keras.layers.Layer, x: tf.Tensor, d: tf.Tensor) -> tf.Tensor:
    """Gradients [n, size] in the kernel's order, [*offsets, C / groups, filters]."""
    groups = layer.groups
    flat = positions([d])
    if groups == 1:
        parts = [tf.matmul(positions([u]), flat, transpose_a=True) for u in _shifted(layer, x, d)]
        return _joined(parts)
    flat = tf.reshape(flat, [-1, flat.shape[1], groups, layer.filters // groups])
    parts = []
    for u in _shifted(layer, x, d):
        u = positions([u])
        u = tf.reshape(u, [-1, u.shape[1], groups, u.shape[2] // groups])
        parts.append(tf.einsum("nsgc,nsgf->ncgf", u, flat))
    return _joined(parts)


def _joined(parts: list[tf.Tensor]) -> tf.Tensor:
    flat = [tf.reshape(part, [-1, math.prod(part.shape[1:])]) for part in parts]
    return tf.concat(flat, axis=1)


def _bias(layer: keras.layers.Layer, calls: Calls) -> Gradients:
    if not layer.use_bias:
        return []
    return [(layer.bias, Rows(tf.reduce_sum(positions([d for _, d in calls]), axis=1)))]


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
