"""Rules that users register for layers of their own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

LAYER_RULES: dict[type, Callable] = {}


class LayerCall(NamedTuple):
    """One call of a layer: what it was given and what it returned."""

    layer: keras.layers.Layer
    inputs: tf.Tensor
    outputs: tf.Tensor


def register_layer_rule(layer_class: type[keras.layers.Layer], rule: Callable) -> Callable:
    r"""Registers how the per-example gradients of a layer's variables are computed.

    Most layers need no rule: those of operations do. One is of use where a layer does something no
    operation's rule covers, such as a loop, or where it knows a faster way. It is compared with
    ordinary gradients on examples of the data before it is trusted, and not used, with a warning,
    where these differ.

    Args:
        layer_class: the exact class; subclasses may compute something else.
        rule: `rule(layer, calls)` returns pairs `(variable, gradients)` for the layer's trainable
            variables, `gradients` `[n, *variable.shape]` the gradient of each of the n examples.
            `calls` holds a pair `(inputs, output_gradients)` for every time that the layer was
            called: its first argument and the gradient with respect to what it returned, examples
            along the first axis of each. The gradient of a variable is the sum over the calls.
            Called while a graph is traced, so with symbolic tensors.

    Returns:
        The rule.

    Raises:
        TypeError: where `layer_class` is not a class of Keras layers or `rule` cannot be called.

    Example:
        A layer that scales its input by the square of a vector::

            class Squared(keras.layers.Layer):
                def build(self, shape):
                    self.scale = self.add_weight(shape=(shape[-1],), name="scale")

                def call(self, x):
                    return x * self.scale**2

            def squared(layer, calls):
                rows = sum(2 * layer.scale * keras.ops.sum(x * d, axis=range(1, x.ndim - 1))
                           for x, d in calls)
                return [(layer.scale, rows)]

            register_layer_rule(Squared, squared)
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise TypeError(f"`layer_class` must be a class of Keras layers. Received: {layer_class!r}")
    if not callable(rule):
        raise TypeError(f"`rule` must be a function (layer, calls). Received: {rule!r}")
    LAYER_RULES[layer_class] = rule
    return rule


def recording(
    layers: list[keras.layers.Layer], calls: list[LayerCall]
) -> list[tuple[Any, str, Any]]:
    """Attributes of layers that let them add what they are called with to `calls`."""

    def recorded(layer: keras.layers.Layer) -> Callable:
        original = layer.call

        def call(inputs: tf.Tensor, *args: Any, **kwargs: Any) -> tf.Tensor:
            outputs = original(inputs, *args, **kwargs)
            calls.append(LayerCall(layer, inputs, outputs))
            return outputs

        return call

    return [(layer, "call", recorded(layer)) for layer in layers]
