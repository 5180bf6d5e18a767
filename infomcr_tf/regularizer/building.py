"""Creating a model's variables before its training function is traced."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


def build_before_tracing(model: keras.Model, batches: Iterator[Any]) -> Iterator[Any]:
    """Builds model, loss, metrics and optimizer; returns an iterator over the same batches.

    A `tf.function` that creates variables is traced twice, and the trace is most of the time to the
    first step.

    Args:
        model: A compiled model. Under a distribution strategy, `fit` has built it already.
        batches: What Keras passes to its training function.
    """
    if model._distribute_strategy is not None:
        return batches
    if isinstance(batches, tf.data.Iterator):
        batch = batches.element_spec
    else:
        batch = next(batches)
        batches = itertools.chain([batch], batches)
    model._symbolic_build(
        data_batch=keras.tree.map_structure(
            lambda leaf: leaf if hasattr(leaf, "dtype") else None, batch
        )
    )
    return batches
