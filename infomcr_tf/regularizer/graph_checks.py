"""Checks whose outcome is only known while a graph runs, raised as one-line errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

# Enclose the message in TensorFlow's own, longer one.
START, END = "<infomcr_tf>", "</infomcr_tf>"


def check_in_graph(condition: tf.Tensor, *message: Any) -> list[tf.Operation]:
    """Checks `condition`; returns the control inputs for what must not happen otherwise.

    XLA drops such checks.

    Args:
        condition: A boolean scalar.
        *message: Texts and scalar tensors, joined.

    Raises:
        ValueError: If TensorFlow executes eagerly and `condition` is false.
    """
    if not tf.executing_eagerly():
        return [tf.debugging.Assert(condition, [START, *message, END])]
    if not condition:
        raise ValueError("".join(m if isinstance(m, str) else str(m.numpy()) for m in message))
    return []


@contextmanager
def graph_errors_as_value_errors() -> Iterator[None]:
    """Raises a failed `check_in_graph` as a `ValueError` with its message alone."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(rf"\[{START}\] \[(.*?)\] \[{END}\]", str(error), re.DOTALL)
        if found is None:
            raise
        # TensorFlow escapes quotes
        raise ValueError(found[1].replace("] [", "").replace("\\'", "'")) from None
