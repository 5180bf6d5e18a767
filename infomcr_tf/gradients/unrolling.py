"""Recurrent layers step by step in the graph, so that what happens in a step can be seen.

Inside of a TensorFlow loop no operation's inputs and gradients can be had. Unrolled, the steps of
a cell are operations like others, and their gradients are computed together for all steps.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

# Steps beyond which the graph would take longer to build than it saves.
MAX_STEPS = 512


def unrolled(layers: list[keras.layers.Layer]) -> list[tuple[Any, str, Any]]:
    """Attributes of the recurrent layers among `layers` that make them unroll."""
    return [
        (layer, "inner_loop", _unrolled_loop(layer))
        for layer in layers
        if isinstance(layer, keras.layers.RNN)
    ]


def _unrolled_loop(layer: keras.layers.RNN) -> Callable:
    original = layer.inner_loop

    def inner_loop(sequences: Any, initial_state: Any, mask: Any = None, **kwargs: Any) -> Any:
        before = {name: layer.__dict__[name] for name in ("unroll", "go_backwards")}
        steps = sequences.shape[1]
        unroll = before["unroll"] or (steps is not None and steps <= MAX_STEPS)
        # Written past Keras' __setattr__, which would note a change of the layer.
        layer.__dict__["unroll"] = unroll
        if unroll and layer.go_backwards:
            # Unrolled, Keras forgets to reverse the mask with which it sets outputs to zero.
            sequences = tf.reverse(sequences, [1])
            mask = keras.tree.map_structure(
                lambda one: None if one is None else tf.reverse(one, [1]), mask
            )
            layer.__dict__["go_backwards"] = False
        try:
            return original(sequences, initial_state, mask=mask, **kwargs)
        finally:
            layer.__dict__.update(before)

    return inner_loop
