"""Checks whose outcome is only known while a graph runs, raised as one-line errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf


class NonFiniteStepError(ValueError):
    """A training step would leave NaN or infinite weights; it is refused before it changes them."""

    what = "the step"


class NonFiniteLossError(NonFiniteStepError):
    """The loss of a batch is NaN or infinite."""

    what = "the loss"


class NonFinitePenaltyError(NonFiniteStepError):
    """R_alpha or the gradient that it is computed from is NaN or infinite."""

    what = "the penalty"


_ERRORS = {error.__name__: error for error in (NonFiniteLossError, NonFinitePenaltyError)}
# A graph can only raise TensorFlow's own error: the class stands beside the message, between these.
_START, _END = "<infomcr_tf>", "</infomcr_tf>"


def check_in_graph(
    condition: tf.Tensor, *message: Any, error: type[ValueError] = ValueError
) -> list[tf.Operation]:
    """Checks `condition`; returns the control inputs for what must not happen otherwise.

    XLA drops such checks.

    Args:
        condition: A boolean scalar.
        *message: Texts and scalar tensors, joined.
        error: What to raise, here or in `graph_errors_as_value_errors`.

    Raises:
        ValueError: If TensorFlow executes eagerly and `condition` is false: an `error`.
    """
    if not tf.executing_eagerly():
        marked = [_START, error.__name__, *message, _END]
        return [tf.debugging.Assert(condition, marked)]
    if not condition:
        raise error("".join(m if isinstance(m, str) else str(m.numpy()) for m in message))
    return []


@contextmanager
def graph_errors_as_value_errors() -> Iterator[None]:
    """Raises a failed `check_in_graph` as its own error, with its message alone."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        pattern = rf"\[{_START}\] \[(\w+)\] \[(.*?)\] \[{_END}\]"
        found = re.search(pattern, str(error), re.DOTALL)
        if found is None:
            raise
        # TensorFlow escapes quotes.
        message = found[2].replace("] [", "").replace("\\'", "'")
        raise _ERRORS.get(found[1], ValueError)(message) from None


def nodes_of(graph: tf.Graph) -> Iterator[Any]:
    """The operations of a graph and of the functions that it calls."""
    definition = graph.as_graph_def()
    yield from definition.node
    for function in definition.library.function:
        yield from function.node_def


@contextmanager
def second_derivatives_exist() -> Iterator[None]:
    """Raises `ValueError` where the gradients made inside have no derivative (CTC).

    In a loop's body TensorFlow puts a `SymbolicGradient` in its place, which fails when it runs.
    """
    missing = None
    try:
        yield
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        if graph and any(node.op == "SymbolicGradient" for node in nodes_of(graph)):
            missing = "an operation in a loop"
    except LookupError as error:
        if type(error) is not LookupError:  # a missing key or index is another matter
            raise
        missing = " ".join(str(error).split())
    if missing:
        raise ValueError(
            "`estimator` must be 'finite_difference' with a loss or layer that TensorFlow cannot "
            f"differentiate twice. Received: estimator='hessian_vector' and {missing}"
        )
