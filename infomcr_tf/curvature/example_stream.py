"""The examples that a curvature matrix is of, one batch after the other, the same in each pass."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from infomcr_tf.arguments import check_argument
from infomcr_tf.gradients.batch_sources import SOURCES, batches_of, is_source
from infomcr_tf.gradients.examples import check_examples, num_examples, take
from infomcr_tf.gradients.head import Head
from infomcr_tf.gradients.loss_head import LossHead

_CHANGED = (
    "the data must be the same in every pass. Received: a batch {index} that differs from that of "
    "the first pass. Leave out shuffling and random augmentation (or `cache()` after them)"
)


class ExampleStream:
    """Checked batches (x, y), as often as they are asked for; a change of the data is refused.

    Args:
        model: what the examples are for.
        x: arrays as for `check_examples`; or, with `y` None, a finite source of batches (x, y): a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, or a function that returns an iterator.
        y: labels, or None.
        batch_size: examples of a batch where `x` holds arrays; a source's batches are left as they
            are.
        head: what turns outputs into losses; `y` are labels, or rows of its targets.

    Raises:
        TypeError: where `x` is no source and `y` is None.
        ValueError: where the examples do not fit the model, see `check_examples`, the source is
            empty or infinite, or two passes already differ in the first batch.
    """

    def __init__(
        self, model: keras.Model, x: Any, y: Any, batch_size: int, head: Head | LossHead
    ) -> None:
        batch_size = check_argument("batch_size", batch_size)
        self._model, self._head = model, head
        self._digests: list[bytes] = []
        self._complete = False
        self._num_examples = 0
        self._from_arrays = y is not None
        if y is None:
            if not is_source(x):
                raise TypeError(
                    f"`y` must be given, unless `x` is {SOURCES} over batches (x, y). "
                    f"Received: {type(x)}"
                )
            self._source = batches_of(x)
        else:
            x, y = check_examples(model, x, y, head=head)
            self._source = _slices(x, y, batch_size)
        first = next(iter(self), None)
        if first is None:
            raise ValueError("`x` must hold at least one batch. Received: an empty data set")
        self.first = first
        next(iter(self))  # a shuffled data set is refused here rather than after the first pass

    @property
    def num_examples(self) -> int:
        """N; a pass over the data where there has been none."""
        if not self._complete:
            for _ in self:
                pass
        return self._num_examples

    def fingerprint(self) -> str:
        """Identifies the examples and their batches."""
        self.num_examples  # noqa: B018  reads all batches if none has yet
        return hashlib.blake2b(b"".join(self._digests), digest_size=16).hexdigest()

    def __iter__(self) -> Iterator[tuple[Any, np.ndarray]]:
        """Yields the batches, and raises `ValueError` where one has changed."""
        count = index = 0
        for index, batch in enumerate(self._source(), start=1):
            x, y = batch
            if not self._from_arrays or index > len(self._digests):
                x, y = check_examples(self._model, x, y, head=self._head)
            y = self._head.rows(y)
            digest = _digest(x, y)
            if index > len(self._digests):
                if self._complete:
                    raise ValueError(_CHANGED.format(index=index))
                self._digests.append(digest)
            elif self._digests[index - 1] != digest:
                raise ValueError(_CHANGED.format(index=index))
            count += num_examples(x)
            yield x, y
        if self._complete and index != len(self._digests):
            raise ValueError(_CHANGED.format(index=index + 1))
        self._complete, self._num_examples = True, count


def _digest(x: Any, y: np.ndarray) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for leaf in [*keras.tree.flatten(x), y]:
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.digest()


def _slices(x: Any, y: np.ndarray, batch_size: int) -> Callable[[], Iterator]:
    def batches() -> Iterator:
        for start in range(0, num_examples(x), batch_size):
            part = slice(start, start + batch_size)
            yield take(x, part), take(y, part)

    return batches
