r"""From any outputs to the loss of each example and its gradient.

The engine knows one kind of network: a map from examples to rows z [n, D]. `LossHead` makes a row
of all outputs of an example, in the order of `keras.tree.flatten`, and takes it apart again.
Targets become rows in the same way. A softmax or sigmoid that Keras' own losses look behind is
taken off, so that gradients do not vanish where probabilities round to 0 or 1.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.arguments import check_number
from infomcr_tf.gradients.head import HeadOutput, unit_rows
from infomcr_tf.gradients.network import before_activation
from infomcr_tf.gradients.output_losses import (
    LossError,
    as_loss,
    for_outputs,
    is_own_function,
    keys_of,
    map_leaves,
)

_ACTIVATIONS = {
    None: lambda values: values,
    "softmax": keras.activations.softmax,
    "sigmoid": keras.activations.sigmoid,
}
# Largest relative difference between the loss of an example alone and among others; a loss that
# couples examples differs more.
_RELATIVE = 1e-3
_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


class _Output(NamedTuple):
    """How one output lies in a row: its shape without examples, its activation, its mask."""

    shape: tuple[int, ...]
    activation: str | None
    mask_shape: tuple[int, ...] | None


class LossHead:
    r"""Each example's loss, and its gradient with respect to the row of outputs, in float64.

    Args:
        loss: a Keras loss or its name, used for every output; a list or dict of these or None, one
            for each output; or a function `(y, y_pred) -> [n]` of all outputs.
        loss_weights: a list or dict of numbers for the outputs, or None.
        output_names: names of the outputs, if the model has names for them.

    The loss of an example is what Keras computes for a batch of this example alone: of several
    values for an example (pixels, tokens) the mean over those that no mask leaves out with Keras'
    default reduction, their sum with `reduction="sum"` or None.

    Raises:
        TypeError: if a loss is nothing of this.
        ValueError: if a name is unknown, or a weight is no number.
    """

    has_classes = False

    def __init__(self, loss: Any, loss_weights: Any = None, output_names: Any = None) -> None:
        self._names = output_names
        self._function: Callable | None = None
        if is_own_function(loss):
            if loss_weights is not None:
                raise ValueError(
                    "`loss_weights` must be None where `loss` is a function of all outputs: weight "
                    f"them in it. Received: loss_weights={loss_weights!r}"
                )
            self._function = loss
        else:
            loss = map_leaves(as_loss, loss)
        self.loss = loss
        self.loss_weights = map_leaves(lambda w: check_number("loss_weights", w), loss_weights)
        self._dtype = tf.float64
        self._keep_integers = False
        self._structure: Any = None
        self._outputs: list[_Output] = []
        self._targets: tuple[Any, list[tuple]] | None = None

    # --- Rows ---------------------------------------------------------------------------------

    def join(self, outputs: Any) -> tf.Tensor:
        """Makes rows [n, D] of the outputs of a model; masks are columns without a gradient."""
        self._structure = keras.tree.map_structure(lambda _: None, outputs)
        self._outputs, parts = [], []
        for output in keras.tree.flatten(outputs):
            mask = getattr(output, "_keras_mask", None)
            values, activation = before_activation(output)
            shape = tuple(values.shape[1:])
            if None in shape:
                raise ValueError(
                    "every axis of `model`'s outputs but the first must be known. Received: an "
                    f"output of shape {tuple(values.shape)}"
                )
            mask_shape = None if mask is None else tuple(mask.shape[1:])
            self._outputs.append(_Output(shape, activation, mask_shape))
            parts += [values] if mask is None else [values, tf.stop_gradient(mask)]
        dtype = tf.float64 if any(p.dtype == tf.float64 for p in parts) else tf.float32
        parts = [tf.cast(p, dtype) for p in parts]
        parts = [tf.reshape(p, [-1, math.prod(p.shape[1:])]) for p in parts]
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)

    def rows(self, y: Any) -> np.ndarray:
        """Makes rows [n, D'] float64 of targets.

        Args:
            y: an array [n, ...], or a list, tuple or dict of arrays.

        Raises:
            ValueError: if they are not of the shapes of the first call.
        """
        leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(y)]
        form = [(leaf.shape[1:], leaf.dtype) for leaf in leaves]
        if self._targets is None:
            self._targets = (keras.tree.map_structure(lambda _: None, y), form)
        if [shape for shape, _ in form] != [shape for shape, _ in self._targets[1]]:
            raise ValueError(
                f"`y` must have the shapes of the first examples, {self._targets[1]}. "
                f"Received: {form}"
            )
        rows = [leaf.reshape(len(leaf), -1).astype(np.float64) for leaf in leaves]
        return np.concatenate(rows, axis=1)

    def _split(self, z: tf.Tensor) -> Any:
        """The outputs, of rows."""
        outputs, start = [], 0
        for shape, activation, mask_shape in self._outputs:
            values, start = _take_columns(z, start, shape)
            values = _ACTIVATIONS[activation](tf.cast(values, self._dtype))
            if mask_shape is not None:
                mask, start = _take_columns(z, start, mask_shape)
                values._keras_mask = tf.stop_gradient(mask) > 0.5
            outputs.append(values)
        return keras.tree.pack_sequence_as(self._structure, outputs)

    def _split_targets(self, y: tf.Tensor) -> Any:
        assert self._targets is not None  # set by `rows`
        structure, form = self._targets
        targets, start = [], 0
        for shape, dtype in form:
            values, start = _take_columns(y, start, shape)
            keep = self._keep_integers and np.issubdtype(dtype, np.integer)
            targets.append(tf.cast(values, dtype if keep else self._dtype))
        return keras.tree.pack_sequence_as(structure, targets)

    # --- Losses -------------------------------------------------------------------------------

    def losses(self, z: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Returns the losses [n] float64, differentiable as often as the loss is.

        Args:
            z: [n, D] rows of outputs, see `join`.
            y: [n, D'] rows of targets, see `rows`.
        """
        outputs, targets = self._split(z), self._split_targets(y)
        if self._function is not None:
            return self._own_losses(targets, outputs)
        total = 0.0
        for loss, weight, target, output in self._matched(targets, outputs):
            total += weight * _keras_losses(loss, target, output)
        return tf.cast(total, tf.float64)

    def __call__(self, z: tf.Tensor, y: tf.Tensor) -> HeadOutput:
        """Returns the losses and the cotangents of n examples; arguments as of `losses`."""
        z = tf.cast(z, tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(z)
            losses = self.losses(z, y)
        cotangents = tape.gradient(losses, z, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        unit, log_norms = unit_rows(cotangents)
        no, yes = tf.zeros(tf.shape(z)[:1], tf.bool), tf.ones(tf.shape(z)[:1], tf.bool)
        return HeadOutput(losses, no, unit, log_norms, yes)

    def transform(self, z: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the outputs as the model gives them, as rows [n, D] float64, and all kept [n]."""
        del y
        self._dtype, before = tf.float64, self._dtype
        outputs = keras.tree.flatten(self._split(tf.cast(z, tf.float64)))
        self._dtype = before
        rows = [tf.reshape(o, [-1, math.prod(o.shape[1:])]) for o in outputs]
        return tf.concat(rows, axis=1), tf.ones(tf.shape(z)[:1], tf.bool)

    def check(self, z: tf.Tensor, y: tf.Tensor) -> None:
        """Checks on some examples that the loss is one of single examples.

        Args:
            z: rows of the outputs of a few examples.
            y: rows of their targets.

        Raises:
            ValueError: if the loss cannot be computed, gives not one number for each example, is
                not differentiable, or depends on the other examples.
        """
        # Two examples at least, so that a number for the whole batch is not taken for [1].
        order = [*range(len(y)), 0]
        z, y = tf.gather(z, order), tf.gather(tf.convert_to_tensor(y), order)
        together = self._first_that_works(z, y).numpy()
        if len(together) != len(order):
            what = f"{len(together)} values for {len(order)} examples"
            raise ValueError(f"`loss` must give one number for each example. Received: {what}")
        if not np.isfinite(together).all():
            raise ValueError("`loss` gives NaN or infinite values on these examples.")
        scale = np.abs(together).max()
        for j in range(len(order) - 1):
            alone = self.losses(z[j : j + 1], y[j : j + 1]).numpy()
            if abs(alone[0] - together[j]) > _RELATIVE * scale:
                raise ValueError(
                    "`loss` must treat each example alone. Received: a loss of which an example's "
                    f"value is {alone[0]:.6g} alone and {together[j]:.6g} in a batch"
                )
        if np.isneginf(self(z, y).log_norms.numpy()).all():
            raise ValueError(
                "`loss` must be differentiable in `y_pred`. Received: gradients that are zero for "
                "all of these examples"
            )

    def _first_that_works(self, z: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Losses written for float32, or for integer targets, get them; else all is float64."""
        first = None
        for self._dtype in (tf.float64, tf.float32):
            for self._keep_integers in (False, True):
                try:
                    return self.losses(z, y)
                except LossError:
                    raise
                except Exception as error:  # whatever the user's function raises
                    first = first or error
        reason = " ".join(str(first).split())[:300]
        raise ValueError(
            f"`loss` cannot be computed from these targets and outputs. {type(first).__name__}: "
            f"{reason}"
        ) from first

    def _own_losses(self, targets: Any, outputs: Any) -> tf.Tensor:
        assert self._function is not None  # or `_matched` is called instead
        values = tf.convert_to_tensor(self._function(targets, outputs))
        shape = tuple(values.shape)
        if len(shape) == 2 and shape[1] == 1:
            values = values[:, 0]
        elif len(shape) != 1:
            raise LossError(_not_one_each(self._function, shape))
        return tf.cast(values, tf.float64)

    def _matched(self, targets: Any, outputs: Any) -> list[tuple]:
        """(loss, weight, target, output) of each output that has a loss."""
        keys = keys_of(outputs, self._names)
        outputs = keras.tree.flatten(outputs)
        losses = for_outputs("loss", self.loss, keys, every=True)
        weights = for_outputs("loss_weights", self.loss_weights, keys, missing=1.0)
        targets = for_outputs("y", targets, keys, needed=[one is not None for one in losses])
        return [
            (loss, weight, target, output)
            for loss, weight, target, output in zip(losses, weights, targets, outputs, strict=True)
            if loss is not None
        ]


def _keras_losses(loss: keras.losses.Loss, target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """[n]: what the loss is for each example as a batch of its own (`keras.losses.Loss`)."""
    values = tf.convert_to_tensor(loss.call(target, output))
    if values.shape.rank == 0:
        raise LossError(_not_one_each(loss, ()))
    given = [getattr(t, "_keras_mask", None) for t in (output, values)]
    masks = [tf.cast(mask, values.dtype) for mask in given if mask is not None]
    rows = tf.reshape(values, [-1, math.prod(values.shape[1:])])
    weights = tf.ones_like(rows)
    for mask in masks:
        if mask.shape.rank != values.shape.rank:
            raise LossError(
                f"the mask of `model`'s output, of shape {tuple(mask.shape)}, must fit the values "
                f"of the loss. Received: {type(loss).__name__} with values of shape "
                f"{tuple(values.shape)}"
            )
        weights *= tf.reshape(tf.broadcast_to(mask, tf.shape(values)), tf.shape(rows))
    total = tf.reduce_sum(weights * rows, axis=1)
    if loss.reduction in _MEANS:
        return tf.math.divide_no_nan(total, tf.reduce_sum(weights, axis=1))
    return total


def _not_one_each(loss: Any, shape: tuple) -> str:
    name = getattr(loss, "__qualname__", type(loss).__name__)
    what = "one number for the whole batch" if shape == () else f"values of shape {shape}"
    return (
        "`loss` must give one number for each example, shape [n] (sum or average over pixels or "
        f"tokens). Received: {name}, which gives {what}"
    )


def _take_columns(rows: tf.Tensor, start: int, shape: tuple) -> tuple[tf.Tensor, int]:
    stop = start + math.prod(shape)
    return tf.reshape(rows[:, start:stop], [-1, *shape]), stop
