"""The examples S that a minimum is measured on: arrays, or a data set that is read in passes."""

import hashlib
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from infomcr_tf.gradients.batch_sources import SOURCES, batches_of, is_source
from infomcr_tf.gradients.examples import check_examples, is_mapped, num_examples, take
from infomcr_tf.gradients.head import Head
from infomcr_tf.gradients.loss_head import LossHead

# With fewer of them, logits that happen to lie between 0 and 1 would be taken for probabilities.
_FIRST = 64


def open_examples(
    model: keras.Model, x: Any, y: Any, head: Head | LossHead, max_memory_bytes: int
) -> "ArrayExamples | StreamedExamples":
    """Returns the examples, checked as far as that is possible without reading them whole.

    Args:
        model: what they are for.
        x: arrays, or a source of batches (x, y) if `y` is None.
        y: labels or targets.
        head: what `y` is for.
        max_memory_bytes: examples of a source that take more are kept in a temporary file.

    Raises:
        TypeError: if `x` is a generator, which can be read only once.
        ValueError: if the examples do not fit the model or the loss.
    """
    if is_source(x):
        if y is not None:
            raise ValueError("`y` must be None where `x` gives batches (x, y). Received: both")
        return StreamedExamples(model, batches_of(x), head, max_memory_bytes)
    if y is None:
        raise ValueError(f"`y` must be given, unless `x` is {SOURCES}. Received: y=None")
    return ArrayExamples(*check_examples(model, x, y, head=head))


class ArrayExamples:
    """Examples in arrays, in memory or mapped from a file.

    Args:
        x: checked examples.
        y: labels [N], or targets.
    """

    streamed = False

    def __init__(self, x: Any, y: Any) -> None:
        self._x, self._y = x, y
        #: Whether all values have been checked; those of a mapped file are when they are read.
        self.checked = not any(is_mapped(leaf) for leaf in keras.tree.flatten((x, y)))
        self.first = take(x, slice(0, _FIRST)), take(y, slice(0, _FIRST))

    def __len__(self) -> int:
        return num_examples(self._x)

    def fetch(self, indices: np.ndarray) -> None:
        """Does nothing: all examples are there."""

    def take(self, indices: np.ndarray) -> tuple[Any, Any]:
        """The examples (x, y) at `indices`."""
        return take(self._x, indices), take(self._y, indices)

    def update(self, digest: hashlib.blake2b) -> None:
        """Adds all that identifies the examples to a digest."""
        _add(digest, self._x, self._y)


class StreamedExamples:
    """Examples of a source, which is read from its beginning for each purpose.

    The examples of all samples S^t are fetched in one pass; the robustness streams through another
    one. Their number is found by a pass of its own.

    Args:
        model: what they are for.
        batches: begins a pass.
        head: what the targets are for.
        max_memory_bytes: examples that take more are kept in a temporary file.
    """

    streamed = True
    checked = True  # each batch, when it is read

    def __init__(
        self,
        model: keras.Model,
        batches: Callable[[], Iterator],
        head: Head | LossHead,
        max_memory_bytes: int,
    ) -> None:
        self._batches, self._max_memory = batches, max_memory_bytes
        self._check = lambda x, y: check_examples(model, x, y, head=head)
        self._digest = hashlib.blake2b(digest_size=16)
        self._fetched: tuple[np.ndarray, Any] | None = None
        self._length = 0
        for x, y in batches():
            if not self._length:
                x, y = self._check(x, y)
                self.first = take(x, slice(0, _FIRST)), take(y, slice(0, _FIRST))
            _add(self._digest, x, y)
            self._length += num_examples(x)
        if not self._length:
            raise ValueError("`x` must hold at least one batch. Received: an empty data set")

    def __len__(self) -> int:
        return self._length

    def fetch(self, indices: np.ndarray) -> None:
        """Reads the examples at `indices`, in one pass, and keeps them for `take`."""
        indices = np.unique(indices)
        kept = None
        for start, example in self._pass():
            stop = start + num_examples(example[0])
            low, high = np.searchsorted(indices, [start, stop])
            if kept is None:
                kept = self._room(example, len(indices))
            for whole, part in zip(
                keras.tree.flatten(kept), keras.tree.flatten(example), strict=True
            ):
                whole[low:high] = part[indices[low:high] - start]
        self._fetched = indices, kept

    def take(self, indices: np.ndarray) -> tuple[Any, Any]:
        """The examples (x, y) at `indices`, which have been fetched."""
        assert self._fetched is not None  # by `fetch`
        fetched, kept = self._fetched
        return take(kept, np.searchsorted(fetched, indices))

    def blocks(self, indices: np.ndarray, size: int) -> Iterator[tuple[Any, Any]]:
        """Yields the examples at the ascending `indices` in blocks of `size`, in one pass."""
        waiting, count = [], 0
        for start, example in self._pass():
            stop = start + num_examples(example[0])
            low, high = np.searchsorted(indices, [start, stop])
            waiting.append(take(example, indices[low:high] - start))
            count += high - low
            while count >= size or (count and stop == self._length):
                joined = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *waiting)
                yield take(joined, slice(0, size))
                waiting = [take(joined, slice(size, None))]
                count -= min(size, count)

    def update(self, digest: hashlib.blake2b) -> None:
        """Adds all that identifies the examples to a digest."""
        digest.update(self._digest.digest())

    def _pass(self) -> Iterator[tuple[int, tuple[Any, Any]]]:
        start, shapes = 0, None
        for batch in self._batches():
            x, y = self._check(*batch)
            own = [leaf.shape[1:] for leaf in keras.tree.flatten((x, y))]
            shapes = shapes or own
            if own != shapes:
                raise ValueError(
                    "`x` must give examples of one shape (pad them to one length). Received: "
                    f"{shapes} and {own}"
                )
            if not start:
                self._warn_of_another_order(x, y)
            yield start, (x, y)
            start += num_examples(x)
        if start != self._length:
            raise ValueError(
                "`x` must give the same number of examples in every pass. Received: "
                f"{self._length} and {start}"
            )

    def _warn_of_another_order(self, x: Any, y: Any) -> None:
        begin = take(x, slice(0, _FIRST)), take(y, slice(0, _FIRST))
        pairs = zip(*map(keras.tree.flatten, (begin, self.first)), strict=True)
        if not all(np.array_equal(now, first) for now, first in pairs):
            warnings.warn(
                "`x` gives other examples, or another order, in every pass (shuffling, "
                "augmentation): `seed` does not reproduce the samples, and other models are not "
                "measured on the same ones.",
                UserWarning,
                stacklevel=2,
            )

    def _room(self, example: Any, num: int) -> Any:
        def array(leaf: np.ndarray) -> np.ndarray:
            shape = (num, *leaf.shape[1:])
            if math.prod(shape) * leaf.itemsize <= self._max_memory:
                return np.empty(shape, leaf.dtype)
            return np.memmap(tempfile.TemporaryFile(), leaf.dtype, "w+", shape=shape)

        return keras.tree.map_structure(array, example)


def _add(digest: hashlib.blake2b, x: Any, y: Any) -> None:
    for array in keras.tree.flatten((y, x)):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
