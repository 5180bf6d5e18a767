"""Cutting a batch `(x, y, sample_weight)` of nested tensors along its first axis."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from infomcr_tf.regularizer.graph_checks import check_in_graph

REMEDIES = "Lower `num_sub_batches` or choose a larger `batch_size`"


def first_leaf(x: Any) -> tf.Tensor:
    """Returns the first tensor of a nested structure."""
    return next(leaf for leaf in tf.nest.flatten(x) if leaf is not None)


def as_tensors(batch: Any) -> Any:
    """Converts arrays to tensors; `None`, sparse and ragged tensors stay what they are."""
    return _map(
        lambda leaf: leaf if _is_composite(leaf) else tf.convert_to_tensor(leaf),
        batch,
    )


def batch_length(x: Any) -> Any:
    """Returns the number of examples: an int where it is known while tracing, else a tensor."""
    return _length(first_leaf(x))


class Partition(NamedTuple):
    """How a batch is cut: ints where its size is known while tracing, else scalar tensors."""

    count: Any  # of sub-batches
    size: Any  # examples in each

    def share(self, fraction: float) -> Any:
        """`fraction` of the sub-batches, rounded, at least one."""
        if isinstance(self.count, int):
            return max(1, round(fraction * self.count))
        if fraction == 1:
            return self.count
        exact = fraction * tf.cast(self.count, tf.float64)
        return tf.maximum(tf.cast(tf.round(exact), self.count.dtype), 1)


def partition(x: Any, num_sub_batches: int) -> Partition:
    """M sub-batches of floor(B / M) examples; of a batch with B < M, B of one example each."""
    size = batch_length(x)
    if isinstance(size, int):
        count = max(1, min(num_sub_batches, size))
    else:
        count = tf.maximum(1, tf.minimum(num_sub_batches, size))
    return Partition(count, size // count)


def check_enough(x: Any, num_sub_batches: int) -> list[tf.Operation]:
    """Checks B >= M, in the graph where B is only known there; returns control inputs.

    Raises:
        ValueError: If the batch is known to be smaller than `num_sub_batches`.
    """
    size = batch_length(x)
    if not isinstance(size, int):
        return check_in_graph(
            size >= num_sub_batches, too_small("a batch of fewer", num_sub_batches)
        )
    check_batch_size(size, num_sub_batches)
    return []


def check_batch_size(batch_size: int, num_sub_batches: int) -> None:
    """Raises `ValueError` unless B >= M."""
    if batch_size < num_sub_batches:
        raise ValueError(too_small(f"a batch of {batch_size}", num_sub_batches))


def too_small(batch: str, num_sub_batches: int) -> str:
    """The message for a batch, or batches, with fewer examples than sub-batches."""
    return (
        "`num_sub_batches` must not be larger than the batch, which is cut into that many parts. "
        f"Received: num_sub_batches={num_sub_batches} for {batch} examples. {REMEDIES}"
    )


def check_batches(
    x: Any,
    batch_size: int | None,
    num_sub_batches: int,
    validation_split: float | None = None,
) -> None:
    """Raises `ValueError` if every batch that `fit` will make of `x` is known to be too small.

    A last, smaller batch is no error. Generators and the like are judged by what they yield.
    """
    if isinstance(x, tf.data.Dataset):
        largest = getattr(first_leaf(x.element_spec), "shape", [None])
        largest = largest[0] if len(largest) else None
    else:
        shape = None if x is None else getattr(first_leaf(x), "shape", None)
        if not shape:
            return
        examples = int(int(shape[0]) * (1 - (validation_split or 0.0)))
        largest = min(batch_size or 32, examples)
    if largest is not None and largest < num_sub_batches:
        raise ValueError(too_small(f"batches of {largest}", num_sub_batches))


def slice_batch(batch: Any, start: Any, size: Any) -> Any:
    """Returns the examples `start ... start + size - 1`; `None` stays `None`.

    All static dimensions but the first stay known, which layers and losses go by.
    """

    def cut(leaf: Any) -> Any:
        if isinstance(leaf, tf.RaggedTensor):
            return leaf[start : start + size]
        rest = leaf.shape.rank - 1
        begin = [start, *[0] * rest]
        if isinstance(leaf, tf.SparseTensor):
            known = zip([size, *leaf.shape[1:]], range(rest + 1), strict=True)
            shape = [tf.shape(leaf)[i] if d is None else d for d, i in known]
            shape = tf.stack([tf.cast(d, tf.int64) for d in shape])
            part = tf.sparse.slice(leaf, tf.cast(begin, tf.int64), shape)
            return tf.SparseTensor(part.indices, part.values, shape)
        # XLA wants the size apart from where it begins.
        part = tf.slice(leaf, begin, [size, *[-1] * rest])
        return tf.ensure_shape(part, [part.shape[0], *leaf.shape[1:]])

    return _map(lambda leaf: cut(leaf) if leaf.shape.rank else leaf, batch)


def roll(batch: Any, shift: tf.Tensor) -> Any:
    """Rotates the examples by `shift` places; `None` stays `None`."""

    def rotate(leaf: Any) -> Any:
        if not _is_composite(leaf):
            return tf.roll(leaf, shift, axis=0) if leaf.shape.rank else leaf
        size = _length(leaf)
        first = (size - shift) % size
        parts = [slice_batch(leaf, first, size - first), slice_batch(leaf, 0, first)]
        join = tf.sparse.concat if isinstance(leaf, tf.SparseTensor) else tf.concat
        return join(axis=0, **{"sp_inputs" if join is tf.sparse.concat else "values": parts})

    return _map(rotate, batch)


def _map(function: Callable[[Any], Any], batch: Any) -> Any:
    return tf.nest.map_structure(lambda leaf: None if leaf is None else function(leaf), batch)


def _is_composite(leaf: Any) -> bool:
    return isinstance(leaf, (tf.SparseTensor, tf.RaggedTensor))


def _length(leaf: Any) -> Any:
    if leaf.shape[0] is not None:
        return leaf.shape[0]
    if isinstance(leaf, tf.RaggedTensor):
        return tf.cast(leaf.nrows(), tf.int32)
    return tf.shape(leaf)[0]
