"""Batches (x, y) from a data set that is read from its beginning to its end."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

SOURCES = "a tf.data.Dataset, a keras.utils.PyDataset, or a function that returns an iterator"


def is_source(x: Any) -> bool:
    """Whether `x` gives batches (x, y), rather than being arrays."""
    if inspect.isgenerator(x):
        raise TypeError(
            "`x` must be read more than once. Received: a generator. Pass the function that makes "
            "it"
        )
    return isinstance(x, (tf.data.Dataset, keras.utils.PyDataset)) or callable(x)


def batches_of(source: Any) -> Callable[[], Iterator[tuple[Any, Any]]]:
    """Returns a function that begins a pass over the batches (x, y) of a source, as NumPy arrays.

    Args:
        source: a finite `tf.data.Dataset` or `keras.utils.PyDataset` that gives batches, or a
            function without arguments that returns an iterator over them.

    Raises:
        ValueError: if the source is infinite; in a pass, if it gives anything but pairs.
    """
    if isinstance(source, tf.data.Dataset):
        if source.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("`x` must be finite. Received: a tf.data.Dataset that repeats forever")
        begin = source.__iter__
    elif isinstance(source, keras.utils.PyDataset):
        if source.num_batches is None:
            raise ValueError("`x` must be finite. Received: a PyDataset without a length")

        def begin() -> Iterator:
            return (source[index] for index in range(source.num_batches))
    else:
        begin = source

    def batches() -> Iterator[tuple[Any, Any]]:
        for batch in begin():
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                parts = f" of {len(batch)} parts" if isinstance(batch, (tuple, list)) else ""
                raise ValueError(
                    "`x` must give batches (x, y), without sample weights: "
                    "`dataset.map(lambda x, y, *_: (x, y))`. Received: "
                    f"{type(batch).__name__}{parts}"
                )
            yield tuple(keras.tree.map_structure(_as_array, part) for part in batch)

    return batches


def _as_array(leaf: Any) -> np.ndarray:
    if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        raise ValueError(
            f"`x` must give dense batches. Received: {type(leaf).__name__}. Use `to_tensor()`, "
            "`padded_batch` or `tf.sparse.to_dense` in its `map`"
        )
    return np.asarray(leaf)
