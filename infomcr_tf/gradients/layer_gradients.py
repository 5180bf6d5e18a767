"""Per-example gradients by layer rules: one batched forward and backward pass for all examples.

The inputs of the layers with a rule and the gradients of their outputs are recorded, and the rules
make per-example gradients of them. A rule is only right where a layer does what its class does, its
variables are used by it alone, and examples do not meet; `checked_layers` finds out by comparing
with ordinary gradients which layers of a network that is true of.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.gradients.blocks import Block, nbytes
from infomcr_tf.gradients.head import Head, HeadOutput
from infomcr_tf.gradients.layer_rules import RULES
from infomcr_tf.gradients.network import Network
from infomcr_tf.gradients.recording import Recorder
from infomcr_tf.gradients.verification import agree, ordinary_gradients


class Covered(NamedTuple):
    """A layer whose rule holds, and the bytes of an example's block for each variable's index."""

    layer: keras.layers.Layer
    nbytes: dict[int, int]


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


def checked_layers(network: Network, x: Any) -> tuple[list[Covered], int]:
    """Finds the layers whose rules hold in a network.

    Args:
        network: the network.
        x: two examples, which finds out whether examples meet.

    Returns:
        The layers, and the bytes of an example's activations and their gradients.
    """
    layers = [
        layer for layer in network.layers() if type(layer) in RULES and layer.trainable_variables
    ]
    with tf.GradientTape(persistent=True) as tape:
        recorder = Recorder(layers, tape)
        logits = network.logits(x, recorder)
    # Any cotangents will do; these are reproducible and treat no class alike.
    cotangents = np.random.default_rng(0).normal(size=logits.shape)
    expected = ordinary_gradients(
        network, tape, logits, cotangents, list(range(len(network.variables)))
    )
    recorder.leave_out(recorder.unreachable(logits))
    applied = _apply_rules(recorder, tape, logits, tf.cast(cotangents, logits.dtype))
    return _covered(network, applied, expected), recorder.nbytes() // len(cotangents)


def _covered(network: Network, applied: Iterable, expected: list[np.ndarray]) -> list[Covered]:
    """The layers of which all gradients are as expected."""
    indices = {id(v): i for i, v in enumerate(network.variables)}
    actual = [np.full_like(rows, np.nan) for rows in expected]
    layers: dict[int, Covered] = {}
    for layer, variable, block in applied:
        index = indices.get(id(variable))
        if index is not None:
            actual[index] = np.concatenate(list(block.slices()), axis=1)
            covered = layers.setdefault(id(layer), Covered(layer, {}))
            covered.nbytes[index] = nbytes(block) // len(actual[index])
    right = agree(actual, expected)
    return [c for c in layers.values() if all(right[index] for index in c.nbytes)]
