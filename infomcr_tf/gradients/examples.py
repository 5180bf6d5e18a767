"""Checks of the examples that a model is characterised on, and access to parts of them."""

from typing import Any

import keras
import numpy as np

from infomcr_tf.gradients.head import HOW_TO_PASS


def check_examples(
    model: keras.Model, x: Any, y: Any, *, head: Any = None
) -> tuple[Any, np.ndarray]:
    """Checks examples against a model and brings them into one form.

    Args:
        model: a built model with one output [n, K].
        x: one array [n, ...], or a list, tuple or dict of arrays for a model with several inputs.
        y: integer labels [n] or [n, 1], or one-hot or soft labels [n, K], of which the largest
            counts (Eq. 4 of the paper). For a `LossHead` its targets, any numbers.
        head: the head that `y` is for; None and a `Head` want labels.

    Returns:
        `x` with NumPy arrays at its leaves, and int64 labels [n] (the targets as arrays).

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if there are no examples, their numbers differ, a shape does not fit the model,
            a value is NaN or infinite, or a label is not a class of the model.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    x = keras.tree.map_structure(_as_array, x)
    _check_inputs(model, x)
    num = num_examples(x)
    if getattr(head, "has_classes", True):
        num_classes = _num_classes(model)
        labels = _integer_labels(_as_array(y, "y"), num_classes)
    else:
        if all(np.ndim(leaf) == 0 for leaf in keras.tree.flatten(y)):
            y = _as_array(y, "y")  # a list of numbers is one array
        labels = keras.tree.map_structure(lambda leaf: _as_array(leaf, "y"), y)
        for leaf in keras.tree.flatten(labels):
            _check_target(leaf, num_examples(x))
        return x, labels
    if len(labels) != num:
        raise ValueError(
            "`x` and `y` must hold the same number of examples. "
            f"Received: {num} examples in `x`, {len(labels)} labels in `y`"
        )
    return x, labels


def _as_array(leaf: Any, name: str = "x") -> np.ndarray:
    try:
        return np.asarray(leaf)
    except (ValueError, TypeError) as error:  # lists of different lengths, sparse tensors
        raise ValueError(
            f"`{name}` must hold dense arrays. Received: {type(leaf).__name__}: {error}"
        ) from None


def num_examples(x: Any) -> int:
    """The number of examples, along the first axis of the leaves of `x`."""
    return len(keras.tree.flatten(x)[0])


def take(x: Any, indices: Any) -> Any:
    """The examples of `x` (one array or a list, tuple or dict of arrays) at `indices`."""
    return keras.tree.map_structure(lambda leaf: leaf[indices], x)


def _check_target(leaf: np.ndarray, num: int) -> None:
    if leaf.dtype.kind not in "buif":
        raise ValueError(f"`y` must hold numbers. Received: dtype {leaf.dtype}")
    if leaf.ndim == 0 or len(leaf) != num:
        raise ValueError(
            f"`y` must hold a target for each of the {num} examples in `x`. "
            f"Received: shape {leaf.shape}"
        )
    if leaf.dtype.kind == "f" and not is_mapped(leaf) and not np.isfinite(leaf).all():
        raise ValueError("`y` must be finite. Received: NaN or infinite values")


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array is mapped from a file: reading it whole may take minutes."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return False


def _check_inputs(model: keras.Model, x: Any) -> None:
    leaves = keras.tree.flatten(x)
    sizes = sorted({len(leaf) if leaf.ndim else 0 for leaf in leaves})
    if not leaves or sizes[0] == 0:
        raise ValueError(
            "`x` must hold at least one example. Received arrays of shape: "
            f"{[leaf.shape for leaf in leaves]}"
        )
    if len(sizes) > 1:
        raise ValueError(
            "All arrays in `x` must hold the same number of examples. "
            f"Received arrays of shape: {[leaf.shape for leaf in leaves]}"
        )
    _check_shapes(model, leaves)
    for leaf in leaves:
        if not np.issubdtype(leaf.dtype, np.number) and leaf.dtype != bool:
            raise ValueError(f"`x` must hold numbers. Received: dtype {leaf.dtype}")
        # Of what is mapped from a file, samples are checked when they are read.
        if is_mapped(leaf):
            continue
        if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
            bad = np.flatnonzero(~np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1))
            raise ValueError(
                f"`x` must be finite. Received: NaN or infinite values in {len(bad)} examples, the "
                f"first at index {bad[0]}"
            )


def _check_shapes(model: keras.Model, leaves: list[np.ndarray]) -> None:
    """Compares with the model's inputs; a model that does not declare them checks itself."""
    declared = getattr(model, "inputs", None)
    if not declared:
        return
    if len(declared) != len(leaves):
        raise ValueError(
            f"`x` must hold one array for each of the model's {len(declared)} inputs. "
            f"Received: {len(leaves)} arrays"
        )
    # A dict may come in another order than the model's inputs; shapes are compared by name then
    # by Keras itself, so only the single and the ordered case are compared here.
    for tensor, leaf in zip(declared, leaves, strict=True):
        expected = tuple(tensor.shape)[1:]
        fits = len(expected) == leaf.ndim - 1 and all(
            e is None or e == r for e, r in zip(expected, leaf.shape[1:], strict=True)
        )
        if not fits and len(declared) == 1:
            raise ValueError(
                "`x` must have the shape of the model's input, "
                f"{(None, *expected)}. Received: {leaf.shape}"
            )


def _num_classes(model: keras.Model) -> int | None:
    """K where the model declares it."""
    outputs = getattr(model, "outputs", None)
    if not outputs:
        return None
    if len(outputs) > 1 or len(outputs[0].shape) != 2 or outputs[0].shape[1] == 1:
        raise ValueError(
            "`model` must have one output of shape [n, K], the logits of K >= 2 classes. "
            f"Received outputs of shape: {[tuple(o.shape) for o in outputs]}. {HOW_TO_PASS}"
        )
    return outputs[0].shape[-1]


def _integer_labels(y: np.ndarray, num_classes: int | None) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "buif":
        if num_classes is not None and y.shape[1] != num_classes:
            raise ValueError(
                f"One-hot `y` must have a column for each of the model's {num_classes} classes. "
                f"Received: shape {y.shape}"
            )
        if not np.isfinite(y).all():
            raise ValueError("`y` must be finite. Received: NaN or infinite values")
        # Float16 rows of K probabilities sum to 1 to this.
        wrong = (y < 0).any(axis=1) | (np.abs(y.sum(axis=1, dtype=np.float64) - 1) > 1e-2)
        if wrong.any():
            raise ValueError(
                "Rows of `y` must be one-hot or probabilities that sum to 1. Received: "
                f"{y[wrong][0]} at index {np.flatnonzero(wrong)[0]} (several labels at once?). "
                f"{HOW_TO_PASS}"
            )
        return y.argmax(axis=1).astype(np.int64)
    if y.ndim == 2:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(
            f"`y` must be labels [n] or one-hot rows [n, K]. Received: shape {y.shape}"
        )
    labels = y.astype(np.int64) if np.issubdtype(y.dtype, np.number) else None
    if labels is None or not (labels == y).all():
        if y.dtype.kind in "USO":
            raise ValueError(
                "Labels in `y` must be integers. Received: texts or objects. Encode them in the "
                "order of the model's classes: `classes, y = np.unique(y, return_inverse=True)` "
                "has them in alphabetical order"
            )
        raise ValueError(
            f"Labels in `y` must be integers. Received: dtype {y.dtype}. {HOW_TO_PASS}"
        )
    bound = num_classes if num_classes is not None else np.inf
    wrong = (labels < 0) | (labels >= bound)
    if wrong.any():
        raise ValueError(
            f"Labels in `y` must be classes of the model, 0 to {bound - 1}. "
            f"Received: {labels[wrong][0]} at index {np.flatnonzero(wrong)[0]}"
        )
    return labels
