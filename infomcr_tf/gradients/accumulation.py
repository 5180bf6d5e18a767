"""Inner products of the per-example gradients of any number of examples, tile by tile.

The examples are cut into tiles. A pass computes the rows of some variables for all tiles and adds
their products to the Gram matrix, one pair of tiles after the other and each pair once, since the
matrix is symmetric; then the next variables follow. What is held is the matrix and one pass.
"""

import hashlib
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.gradients.blocks import Block, inner_products, layer_products
from infomcr_tf.gradients.examples import take
from infomcr_tf.gradients.head import HeadOutput
from infomcr_tf.gradients.passes import ERROR_SAMPLE, Pass, sample
from infomcr_tf.progress import progress_bar
from infomcr_tf.storage import replacing

# Seconds between two writes of what has been added up.
_WRITE_EVERY = 60.0


class Accumulation:
    """The sum over passes.

    Args:
        n: the number of examples.
        tile: the examples of a tile.
        state: a file in which the sum is kept between passes, or None. If it exists and was made
            for the same `identity`, its passes are not computed again.
        identity: says what is computed.
        progress: show a progress bar.
        layers: the number of the layer of each variable, for a matrix of each layer in the place of
            their sum; or None.
    """

    def __init__(
        self,
        n: int,
        tile: int,
        *,
        state: str | os.PathLike | None = None,
        identity: str = "",
        progress: bool = False,
        layers: Sequence[int] | None = None,
    ) -> None:
        self._layers = layers
        self.products = np.zeros((n, n) if layers is None else (max(layers) + 1, n, n))
        self.head: HeadOutput | None = None
        self.tiles = [slice(start, min(n, start + tile)) for start in range(0, n, tile)]
        few = min(n, tile, ERROR_SAMPLE)
        # Of every tile but a last one that is too small.
        self.errors = np.zeros((len(self.tiles) - ((n - 1) % tile + 1 < few), 2, few, few))
        self._state = None if state is None else Path(state)
        self._identity = identity
        self._progress = progress
        self._written = time.monotonic()
        self._done = 0

    def add(self, passes: list[Pass], x: Any, y: tf.Tensor) -> None:
        """Adds the inner products of all pieces of variables, in float32, and completes them."""
        self._read()
        pairs = self._pairs()
        with self._bar(len(passes) * len(pairs), self._done * len(pairs)) as bar:
            for number, part in enumerate(passes):
                if number < self._done:
                    continue
                self._add(part, x, y, pairs, tf.float32, bar)
                self._done = number + 1
                self._write(last=self._done == len(passes))
        self._mirror()

    def take_whole(self, head: HeadOutput, products: tf.Tensor, few: list[Block]) -> None:
        """Takes what one pass over all examples at once gives, see `Plan.whole`."""
        self.head, self.products = checked(head), products.numpy()
        if few:
            self.errors = _errors(products, few)[None]

    def refine(
        self, passes: list[Pass], x: Any, y: tf.Tensor, pairs: list[tuple[int, int]]
    ) -> None:
        """Computes the products of some pairs of tiles again, in float64."""
        for i, j in pairs:
            self.products[..., self.tiles[i], self.tiles[j]] = 0
        with self._bar(len(passes) * len(pairs), 0) as bar:
            for part in passes:
                self._add(part, x, y, pairs, tf.float64, bar)
        self._mirror()

    def forget(self) -> None:
        """Removes the file of the state."""
        if self._state is not None:
            self._state.unlink(missing_ok=True)

    def _pairs(self) -> list[tuple[int, int]]:
        count = len(self.tiles)
        return [(i, j) for i in range(count) for j in range(i, count)]

    def _bar(self, total: int, done: int) -> Any:
        shown = self._progress and total > 1
        return progress_bar(total, title="pairs of tiles", done=done, shown=shown)

    def _add(
        self,
        part: Pass,
        x: Any,
        y: tf.Tensor,
        pairs: list[tuple[int, int]],
        dtype: tf.DType,
        bar: Any,
    ) -> None:
        wanted = {i for pair in pairs for i in pair}
        tiles: dict[int, list[Block]] = {}
        heads = []
        for i in sorted(wanted):
            head, tiles[i] = run_pass(part, take(x, self.tiles[i]), y[self.tiles[i]])
            heads.append(head)
        if self.head is None:
            parts = (np.concatenate(values) for values in zip(*heads, strict=True))
            self.head = HeadOutput(*parts)
        for i, j in pairs:
            if self._layers is not None:
                of_blocks = [self._layers[piece.index] for piece in part.pieces]
                count = len(self.products)
                products = layer_products(of_blocks, count, tiles[i], tiles[j])
            else:
                products = inner_products(tiles[i], tiles[j], dtype)
            if dtype == tf.float32 and i == j < len(self.errors) and self._layers is None:
                self.errors[i] += _errors(products, sample(tiles[i]))
            self.products[..., self.tiles[i], self.tiles[j]] += products.numpy()
            bar.update()

    def _mirror(self) -> None:
        for i, j in self._pairs():
            upper = self.products[..., self.tiles[i], self.tiles[j]]
            self.products[..., self.tiles[j], self.tiles[i]] = upper.swapaxes(-1, -2)

    def _read(self) -> None:
        if self._state is None or not self._state.exists():
            return
        with np.load(self._state, allow_pickle=False) as saved:
            if str(saved["identity"]) != self._identity:
                return
            self.products, self.errors = saved["products"], saved["errors"]
            self.head = HeadOutput(*(saved[name] for name in HeadOutput._fields))
            self._done = int(saved["done"])

    def _write(self, *, last: bool) -> None:
        if self._state is None or last or time.monotonic() - self._written < _WRITE_EVERY:
            return
        with replacing(self._state) as path, path.open("wb") as file:
            np.savez(
                file,
                identity=self._identity,
                products=self.products,
                errors=self.errors,
                done=self._done,
                **({} if self.head is None else self.head._asdict()),
            )
        self._written = time.monotonic()


def _errors(products: tf.Tensor, few: list[Block]) -> np.ndarray:
    """The errors of the products of the first examples in float32, and what is right: [2, m, m]."""
    exact = inner_products(few, few, tf.float64).numpy()
    return np.stack([products[: len(exact), : len(exact)] - exact, exact])


def run_pass(part: Pass, x: Any, y: tf.Tensor) -> tuple[HeadOutput, list[Block]]:
    """The head's output and the blocks of one pass, for the examples of one tile."""
    n = len(y)
    chunks = [slice(i, i + part.chunk_size) for i in range(0, n, part.chunk_size)]
    if len(chunks) == 1:
        head, blocks = part.function(x, y)
        return checked(head), blocks
    # Copied at once, chunk by chunk, into memory of the right size: TensorFlow's own allocator
    # rounds sizes up by a quarter, and does not give back what is freed.
    joined: list[np.ndarray] = []
    for chunk in chunks:
        result = part.function(take(x, chunk), y[chunk])
        structure = tf.nest.map_structure(lambda _: 0, result)
        leaves = tf.nest.flatten(result)
        joined = joined or [_aligned((n, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
        for whole, leaf in zip(joined, leaves, strict=True):
            whole[chunk] = leaf.numpy()
        on_host = "CPU" in leaf.device
        del result, leaves, leaf
    tensors = [_shared(w) if on_host else tf.convert_to_tensor(w) for w in joined]
    head, blocks = tf.nest.pack_sequence_as(structure, tensors)
    return checked(head), blocks


def _shared(array: np.ndarray) -> tf.Tensor:
    """A tensor in the memory of an array; TensorFlow's conversion would copy."""
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _aligned(shape: tuple[int, ...], dtype: tf.DType) -> np.ndarray:
    """An array that begins at a multiple of 64 bytes, as TensorFlow wants of its tensors."""
    size = math.prod(shape) * dtype.size
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype.as_numpy_dtype).reshape(shape)


def slower(passes: list[Pass], x: Any, y: tf.Tensor) -> str:
    """About how much longer than the batched passes the others take, measured on these examples."""

    def seconds(some: list[Pass], n: int) -> float:
        taken = []
        for _ in range(2):  # the first call prepares the graph
            start = time.perf_counter()
            for part in some:
                run_pass(part, take(x, slice(0, n)), y[:n])
            taken.append(time.perf_counter() - start)
        return taken[-1]

    n = min(len(y), 8)
    slow = [part for part in passes if not part.by_rules]
    fast = [part for part in passes if part.by_rules]
    if not fast:
        return f"about {len(y)} passes of one example in the place of one of {len(y)}."
    batched = seconds(fast, n)
    return f"about {(batched + seconds(slow, n)) / batched:.0f} times slower."


def checked(head: HeadOutput) -> HeadOutput:
    """The head's output as NumPy arrays.

    Raises:
        ValueError: if the loss of an example is NaN or infinite.
    """
    head = HeadOutput(*(values.numpy() for values in head))
    if not np.isfinite(head.losses).all():
        raise ValueError("`model` gives NaN or infinite logits on these examples.")
    return head


def identity_of(model: keras.Model, x: Any, y: Any, settings: Any) -> str:
    """A digest of the weights, the examples and the settings."""
    digest = hashlib.sha256(repr(settings).encode())
    for values in (*(v.numpy() for v in model.variables), *keras.tree.flatten((x, y))):
        array = np.ascontiguousarray(values)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
