"""Per-example gradients by layer rules: one batched forward and backward pass for all examples.

The inputs of the layers with a rule and the gradients of their outputs are recorded, and the rules
make per-example gradients of them. A rule is only right where a layer does what its class does, its
variables are used by it alone, and examples do not meet; `checked_layers` finds out by comparing
with ordinary gradients which layers of a network that is true of.
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.characterization.blocks import Block
from infomcr_tf.characterization.head import Head, HeadOutput
from infomcr_tf.characterization.layer_rules import RULES
from infomcr_tf.characterization.network import Network
from infomcr_tf.characterization.recording import Recorder

# A wrong rule is wrong by far more; TF32 products are good to 1e-3.
_CHECK_TOLERANCE = 1e-2


class InnerGraphError(Exception):
    """Some layers are called inside a loop or a branch, where nothing can be recorded."""

    def __init__(self, layers: list[keras.layers.Layer]) -> None:
        super().__init__(f"Called inside a loop or a branch: {[layer.name for layer in layers]}")
        self.layers = layers


class LayerGradients:
    """Per-example gradients of the variables that belong to layers with a rule.

    Args:
        network: the network.
        head: the head.
        indices: the variables, as indices of `network.variables`; each belongs to one of `layers`.
        layers: layers with a rule, see `checked_layers`.
    """

    def __init__(
        self,
        network: Network,
        head: Head,
        indices: tuple[int, ...],
        layers: list[keras.layers.Layer],
    ) -> None:
        self._network = network
        self._head = head
        self._indices = {id(network.variables[i]): i for i in indices}
        self._layers = [
            layer
            for layer in layers
            if any(id(v) in self._indices for v in layer.trainable_variables)
        ]

    def __call__(self, x: Any, y: tf.Tensor) -> tuple[HeadOutput, dict[int, Block]]:
        """Returns what the head says, and a block for each variable. Traceable.

        Raises:
            InnerGraphError: if layers are called where nothing can be recorded.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            recorder = Recorder(self._layers, tape)
            logits = self._network.logits(x, recorder)
            with tape.stop_recording():
                head = self._head(logits, y)
        unreachable = recorder.unreachable(logits)
        if unreachable:
            raise InnerGraphError(unreachable)
        cotangents = tf.cast(head.unit_cotangents, logits.dtype)
        blocks = {
            self._indices[id(variable)]: block
            for _, variable, block in _apply_rules(recorder, tape, logits, cotangents)
            if id(variable) in self._indices
        }
        return head, blocks


def _apply_rules(
    recorder: Recorder, tape: tf.GradientTape, logits: tf.Tensor, cotangents: tf.Tensor
) -> Iterator[tuple[keras.layers.Layer, keras.Variable, Block]]:
    gradients = tape.gradient(
        logits,
        [call.outputs for call in recorder.calls],
        output_gradients=cotangents,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    calls: dict[int, list] = {}
    for call, gradient in zip(recorder.calls, gradients, strict=True):
        calls.setdefault(id(call.layer), []).append((call.inputs, gradient))
    for layer in {id(call.layer): call.layer for call in recorder.calls}.values():
        for variable, block in RULES[type(layer)](layer, calls[id(layer)]):
            yield layer, variable, block


def checked_layers(
    network: Network, x: Any
) -> tuple[list[keras.layers.Layer], dict[int, int], int]:
    """Finds the layers whose rules hold in a network.

    Per-example gradients by the rules are compared with ordinary gradients of one example's output
    at a time.

    Args:
        network: the network.
        x: a few examples; two find out whether examples meet.

    Returns:
        The layers; for the index of each variable that they cover the bytes of an example's block;
        and the bytes of an example's activations and their gradients.
    """
    layers = [
        layer for layer in network.layers() if type(layer) in RULES and layer.trainable_variables
    ]
    with tf.GradientTape(persistent=True) as tape:
        recorder = Recorder(layers, tape)
        logits = network.logits(x, recorder)
    # Any cotangents will do; these are reproducible and treat no class alike.
    cotangents = np.random.default_rng(0).normal(size=logits.shape)
    exact = _gradients_one_by_one(network, tape, logits, cotangents)
    recorder.leave_out(recorder.unreachable(logits))
    indices = {id(v): i for i, v in enumerate(network.variables)}
    right, sizes = {}, {}
    applied = _apply_rules(recorder, tape, logits, tf.cast(cotangents, logits.dtype))
    for layer, variable, block in applied:
        index = indices.get(id(variable))
        if index is not None:
            expected = exact[index]
            difference = np.concatenate(list(block.slices()), axis=1) - expected
            agrees = np.linalg.norm(difference) <= _CHECK_TOLERANCE * np.linalg.norm(expected)
            right.setdefault(layer, {})[index] = agrees
            sizes[index] = block.nbytes() // len(cotangents)
    right = {layer: agrees for layer, agrees in right.items() if all(agrees.values())}
    covered = {index: sizes[index] for agrees in right.values() for index in agrees}
    return list(right), covered, recorder.nbytes() // len(cotangents)


def _gradients_one_by_one(
    network: Network, tape: tf.GradientTape, logits: tf.Tensor, cotangents: np.ndarray
) -> list[np.ndarray]:
    """For each variable, the gradients [n, size] with a cotangent for one example at a time."""
    rows = []
    for j in range(len(cotangents)):
        alone = np.where(np.arange(len(cotangents))[:, None] == j, cotangents, 0)
        gradients = tape.gradient(
            logits,
            [v.value for v in network.variables],
            output_gradients=tf.cast(alone, logits.dtype),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        rows.append([np.reshape(tf.convert_to_tensor(g), -1) for g in gradients])
    return [np.stack(parts) for parts in zip(*rows, strict=True)]
