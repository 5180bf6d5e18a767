"""Cutting a batch `(x, y, sample_weight)` of nested tensors along its first axis."""

from typing import Any

import tensorflow as tf

from infomcr_tf.regularizer.graph_checks import check_in_graph


def first_leaf(x: Any) -> tf.Tensor:
    """Returns the first tensor of a nested structure."""
    return next(leaf for leaf in tf.nest.flatten(x) if leaf is not None)


def as_tensors(batch: Any) -> Any:
    """Converts arrays to tensors; `None` stays `None`."""
    return tf.nest.map_structure(
        lambda leaf: None if leaf is None else tf.convert_to_tensor(leaf), batch
    )


def batch_size(x: Any) -> Any:
    """Returns the number of examples: an int where it is known while tracing, else a tensor."""
    leaf = first_leaf(x)
    static = leaf.shape[0]
    return tf.shape(leaf)[0] if static is None else static


def sub_batch_size(x: Any, num_sub_batches: int) -> Any:
    """Returns floor(B / M); raises where B < M, in the graph where B is only known there.

    Raises:
        ValueError: If the batch is known to be smaller than `num_sub_batches`.
    """
    size = batch_size(x)
    if isinstance(size, int):
        if size < num_sub_batches:
            raise ValueError(too_small(size, num_sub_batches))
        return size // num_sub_batches
    with tf.control_dependencies(
        check_in_graph(size >= num_sub_batches, too_small("fewer", num_sub_batches))
    ):
        return size // num_sub_batches


def too_small(size: Any, num_sub_batches: int) -> str:
    """The message for a batch with fewer examples than sub-batches."""
    return (
        f"`num_sub_batches` must not be larger than the (local) batch, which is cut into that many "
        f"parts. Received: num_sub_batches={num_sub_batches} for a batch of {size} examples. "
        "Lower `num_sub_batches`, choose another `batch_size`, or drop the last, smaller batch of "
        "a `tf.data` pipeline (`drop_remainder=True`)"
    )


def check_last_batch(
    examples: int,
    batch_size: int,
    num_sub_batches: int,
    *,
    validation_split: float | None = None,
    steps_per_epoch: int | None = None,
    **_: Any,
) -> None:
    """Raises `ValueError` if `fit`, given arrays, will end an epoch on too small a batch."""
    examples = int(examples * (1 - (validation_split or 0.0)))
    last = examples % batch_size or batch_size
    if last < num_sub_batches and not steps_per_epoch:
        raise ValueError(too_small(last, num_sub_batches))


def take(batch: Any, start: Any, size: Any) -> Any:
    """Returns the examples `start ... start + size - 1`; `None` stays `None`."""

    def cut(leaf: Any) -> Any:
        if leaf is None:
            return None
        # XLA wants the size apart from where it begins.
        if isinstance(leaf, tf.Tensor) and leaf.shape.rank is not None:
            rest = leaf.shape.rank - 1
            return tf.slice(leaf, [start, *[0] * rest], [size, *[-1] * rest])
        return leaf[start : start + size]

    return tf.nest.map_structure(cut, batch)


def roll(batch: Any, shift: tf.Tensor) -> Any:
    """Rotates the examples by `shift` places; `None` stays `None`."""
    return tf.nest.map_structure(
        lambda leaf: None if leaf is None else tf.roll(leaf, shift, axis=0), batch
    )
