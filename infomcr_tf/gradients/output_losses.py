"""Losses, weights and targets of single outputs: which belongs to which."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


class LossError(ValueError):
    """A loss that is wrong in itself, not in the dtypes that it is given."""


class FunctionLoss(keras.losses.Loss):
    """A function of Keras' as the loss that `compile` makes of it."""

    def __init__(self, function: Callable) -> None:
        super().__init__(name=function.__name__)
        self._fn = function

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Aligns labels [n] with outputs [n, 1], and labels [..., 1] with [...], as Keras does."""
        if y_true.shape.rank == 1 and y_pred.shape.rank == 2 and y_pred.shape[1] == 1:
            y_true = y_true[:, None]
        elif y_true.shape.rank == y_pred.shape.rank + 1 and y_true.shape[-1] == 1:
            y_true = y_true[..., 0]
        return self._fn(y_true, y_pred)


def _is_keras_function(loss: Any) -> bool:
    name = getattr(loss, "__name__", "")
    return callable(loss) and getattr(keras.losses, name, None) is loss


def is_own_function(loss: Any) -> bool:
    """Whether `loss` is a function of a user's, of all outputs together."""
    return (
        callable(loss)
        and not isinstance(loss, (type, keras.losses.Loss))
        and not _is_keras_function(loss)
    )


def as_loss(loss: Any) -> keras.losses.Loss | None:
    """The Keras loss that a name, a function of Keras' or a loss stands for.

    Raises:
        TypeError: if it is nothing of this.
        ValueError: if Keras does not know the name.
    """
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            raise ValueError(
                f"`loss` must be a name that Keras knows. Received: loss={loss!r}"
            ) from None
    if loss is None or isinstance(loss, keras.losses.Loss):
        return loss
    if callable(loss) and not isinstance(loss, type):
        return FunctionLoss(loss)
    raise TypeError(
        '`loss` must be "auto", "compiled", a Keras loss, its name, a function '
        f"`(y, y_pred) -> [n]`, or a list or dict of losses. Received: {loss!r}"
    )


def map_leaves(function: Callable, values: Any) -> Any:
    """Applied to a list's or dict's members, or to a single value; None stays None."""
    if isinstance(values, dict):
        return {key: None if one is None else function(one) for key, one in values.items()}
    if isinstance(values, (list, tuple)):
        return [None if one is None else function(one) for one in values]
    return None if values is None else function(values)


def keys_of(outputs: Any, names: Any) -> list[tuple]:
    """For each output what may name it: its key in a dict, its number, its name."""
    paths = (
        [path for path, _ in keras.tree.flatten_with_path(outputs)]
        if isinstance(outputs, (dict, list, tuple))
        else [()]
    )
    names = names if names is not None and len(names) == len(paths) else [None] * len(paths)
    return [
        tuple(key for key in (path[-1] if path else None, name) if isinstance(key, str))
        for path, name in zip(paths, names, strict=True)
    ]


def for_outputs(
    what: str,
    values: Any,
    keys: list[tuple],
    *,
    every: bool = False,
    missing: Any = None,
    needed: list[bool] | None = None,
) -> list:
    """One of `values` for each output: by key, by number, or the same for every output."""
    if isinstance(values, dict):
        known = {key for names in keys for key in names}
        if not known.issuperset(values):
            raise LossError(
                f"`{what}` must be named as the model's outputs, {[n[0] for n in keys if n]}. "
                f"Received: {sorted(map(str, values))}"
            )
        found = [next((values[k] for k in names if k in values), missing) for names in keys]
    elif isinstance(values, (list, tuple)):
        if len(values) != len(keys):
            raise LossError(
                f"`{what}` must have one entry for each of the model's {len(keys)} outputs. "
                f"Received: {len(values)}"
            )
        found = [missing if value is None else value for value in values]
    elif values is None or every or len(keys) == 1:
        found = [missing if values is None else values] * len(keys)
    else:
        raise LossError(
            f"`{what}` must be a list or dict, one entry for each of the model's {len(keys)} "
            f"outputs. Received: {type(values).__name__}"
        )
    for value, wanted, names in zip(found, needed or [], keys, strict=bool(needed)):
        if wanted and value is None:
            raise LossError(f"`{what}` must hold targets of output {names}. Received: none")
    return found
