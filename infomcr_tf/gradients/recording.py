"""Records what layers are called with and what they put into their activation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from infomcr_tf.gradients.network import override


class Call(NamedTuple):
    """One call of a layer: its input, and its output before the activation."""

    layer: keras.layers.Layer
    inputs: tf.Tensor
    outputs: tf.Tensor


class Recorder:
    """A context in which the calls of some layers are recorded.

    Args:
        layers: the layers.
        tape: the tape that is to differentiate with respect to the outputs.
    """

    def __init__(self, layers: list[keras.layers.Layer], tape: tf.GradientTape) -> None:
        self.calls: list[Call] = []
        self._tape = tape
        self._before_activation = None
        self._layers = layers

    def __enter__(self) -> "Recorder":
        attributes = []
        for layer in self._layers:
            attributes.append((layer, "call", self._recorded(layer, layer.call)))
            if getattr(layer, "activation", None) is not None:
                attributes.append((layer, "activation", self._watched(layer.activation)))
        self._override = override(attributes)
        self._override.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._override.__exit__(*error)

    def unreachable(self, logits: tf.Tensor) -> list[keras.layers.Layer]:
        """Layers that were called in another graph than the one of the logits, as in a loop."""
        graph = None if tf.executing_eagerly() else logits.graph
        return [call.layer for call in self.calls if _graph(call.outputs) is not graph]

    def leave_out(self, layers: list[keras.layers.Layer]) -> None:
        """Forgets the calls of some layers."""
        self.calls = [call for call in self.calls if call.layer not in layers]

    def nbytes(self) -> int:
        """The memory of the inputs and outputs, and of as many gradients."""
        tensors = [tensor for call in self.calls for tensor in (call.inputs, call.outputs)]
        return 2 * sum(t.shape.num_elements() * t.dtype.size for t in tensors)

    def _recorded(self, layer: keras.layers.Layer, original: Callable) -> Callable:
        def call(inputs: tf.Tensor, *args: Any, **kwargs: Any) -> tf.Tensor:
            self._before_activation = None
            outputs = original(inputs, *args, **kwargs)
            if self._before_activation is None:
                self._tape.watch(outputs)
                self._before_activation = outputs
            self.calls.append(Call(layer, inputs, self._before_activation))
            return outputs

        return call

    def _watched(self, original: Callable) -> Callable:
        def activation(values: tf.Tensor) -> tf.Tensor:
            self._tape.watch(values)
            self._before_activation = values
            return original(values)

        return activation


def _graph(tensor: tf.Tensor) -> tf.Graph | None:
    return None if hasattr(tensor, "numpy") else tensor.graph
