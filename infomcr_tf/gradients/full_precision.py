"""Models in half precision, computed in float32 with the weights that they have.

Under a mixed policy Keras keeps weights in float32 and casts them, and what layers receive, to half
precision for every call. Per-example gradients need digits that this loses, and an underflow of
float16 makes rows zero. So every such layer is given the float32 policy for the time of a call.
"""

from typing import Any

import keras
import tensorflow as tf

_HALF = ("float16", "bfloat16")
_HALF_TYPES = (tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum)


class PrecisionError(ValueError):
    """A model that cannot be computed in float32 or better."""


def float32_overrides(model: keras.Model) -> list[tuple[Any, str, Any]]:
    """The attributes `(object, name, value)` with which a model computes in float32 or better.

    Raises:
        PrecisionError: if that is not possible: weights in half precision, or quantised layers.
    """
    policy = keras.DTypePolicy("float32")
    overrides = []
    for layer in model._flatten_layers():
        mode = getattr(layer, "quantization_mode", None)
        if mode is not None:
            raise PrecisionError(
                f"`model` must not be quantised: what is rounded to {mode} has no gradient. "
                f"Received: {mode} in layer {layer.name!r}. Measure the model before `quantize`"
            )
        if layer.compute_dtype in _HALF:
            overrides.append((layer, "_dtype_policy", policy))
        for tensor in getattr(layer, "_inputs", None) or ():
            if getattr(tensor, "dtype", None) in _HALF:
                overrides.append((tensor, "_dtype", "float32"))
    for variable in model.variables:
        if variable.dtype in _HALF:
            raise PrecisionError(
                "`model` must hold its weights in float32 or float64, as under a mixed policy. "
                f"Received: {variable.dtype} in {variable.path}. Build it under "
                '`keras.config.set_dtype_policy("float32")` and copy the weights with `set_weights`'
            )
    return overrides


def refuse_half_precision(function: Any, x: Any) -> None:
    """Refuses a model that casts to half precision itself, whatever the policy of its layers.

    Args:
        function: the model, as a function of tensors that can be traced.
        x: examples.
    """
    graph = tf.function(function, autograph=False).get_concrete_function(x).graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    for node in nodes:
        if any(value.type in _HALF_TYPES for value in node.attr.values()):
            raise PrecisionError(
                "`model` must not cast to half precision outside of its layers' policies. "
                f"Received: such a cast at {node.name!r}"
            )
