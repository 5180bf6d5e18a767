"""Per-example gradients of a parameter from what an operation is given and its output's gradients.

A rule is a function `(uses, gradients, like) -> Block | None`. `uses` are all uses of one parameter
by operations of one kind (a layer that is called twice, a cell at every step of a series),
`gradients` those of their outputs, and the parameter has the shape and the dtype of `like`. The
gradient is the sum over the uses. A rule gives None where it does not know the case.

Rules hold for what an operation computes, whatever layer it is part of, so Keras' own layers and
layers of users need nothing more.
"""

from collections.abc import Callable

from infomcr_tf.gradients.op_rules.broadcast import ELEMENTWISE, bias_add, broadcast, elementwise
from infomcr_tf.gradients.op_rules.convolution import (
    compiled,
    convolution,
    depthwise_convolution,
    transposed_convolution,
)
from infomcr_tf.gradients.op_rules.gather import gather
from infomcr_tf.gradients.op_rules.products import batch_matmul, einsum, matmul

RULES: dict[str, Callable] = {
    "MatMul": matmul,
    "BatchMatMulV2": batch_matmul,
    "BatchMatMulV3": batch_matmul,
    "Einsum": einsum,
    "Conv2D": convolution,
    "Conv3D": convolution,
    "DepthwiseConv2dNative": depthwise_convolution,
    "Conv2DBackpropInput": transposed_convolution,
    "Conv3DBackpropInputV2": transposed_convolution,
    "PartitionedCall": compiled,
    "StatefulPartitionedCall": compiled,
    "GatherV2": gather,
    "BiasAdd": bias_add,
    "BroadcastTo": broadcast,
    "Tile": broadcast,
    **dict.fromkeys(ELEMENTWISE, elementwise),
}
