"""Which variables' gradients are computed how, in which passes and chunks of examples."""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.gradients.blocks import (
    Block,
    Rows,
    dense_rows,
    inner_products,
    layer_products,
    narrow_joined,
)
from infomcr_tf.gradients.examples import take
from infomcr_tf.gradients.head import Head, HeadOutput
from infomcr_tf.gradients.loss_head import LossHead
from infomcr_tf.gradients.network import TRACING, Network
from infomcr_tf.gradients.tape_gradients import (
    OneExampleGradients,
    TapeJacobian,
    traced_and_verified,
)
from infomcr_tf.gradients.traced_gradients import TracedGradients

METHODS = ("auto", "one_example", "jacobian")
# Examples of a chunk where nothing else decides; the authors' choice for BatchNorm's statistics.
DEFAULT_CHUNK = 10
# Examples of a chunk whose activations are given room: larger ones are not faster.
_CHUNK = 100
# Examples whose rows are multiplied at a time: enough for a product to run at full speed.
MAX_TILE = 512
# Examples on which float32 products are compared with float64 ones.
ERROR_SAMPLE = 16


class Piece(NamedTuple):
    """Columns `start` to `stop` of a variable's gradients; all of them where `stop` is None."""

    index: int  # type: ignore[assignment]  # a tuple's method is not used
    start: int = 0
    stop: int | None = None

    def of(self, block: Block) -> Block:
        """This piece of a block of the variable."""
        if self.stop is None:
            return block
        return Rows((dense_rows(block)[:, self.start : self.stop],))


class Pass(NamedTuple):
    """One run over all examples, which gives the blocks of some pieces of variables.

    Attributes:
        function: `(x, y) -> (head, [block of each piece])` of a chunk of examples.
        chunk_size: the largest chunk.
        pieces: what it gives.
        by_rules: whether it is the batched way.
    """

    function: Callable
    chunk_size: int
    pieces: tuple[Piece, ...]
    by_rules: bool


class Plan:
    """Chooses passes for a network and examples of one shape, and traces them.

    Most of the memory bound, seven eighths or three quarters where activations are large, is for
    what is kept of all examples, the blocks of one pass; the rest, more where the blocks need less,
    for the activations of the examples of one chunk.

    Args:
        network: the network.
        head: the head.
        method: one of `METHODS`.
        chunk_size: examples of a chunk, or None.
        max_memory_bytes: the bound.
        x: examples as tensors; a few of them are used to check what may be trusted.
        y: their labels.
    """

    def __init__(
        self,
        network: Network,
        head: Head | LossHead,
        *,
        method: str,
        chunk_size: int | None,
        max_memory_bytes: int,
        x: Any,
        y: tf.Tensor,
    ) -> None:
        self._network = network
        self._head = head
        self._kind = TapeJacobian if method == "jacobian" else OneExampleGradients
        if network.couples_examples:
            self._kind = TapeJacobian
        self._chunk_size = chunk_size
        self._bound = max_memory_bytes
        self._functions: dict[tuple, Callable] = {}
        self._traced: TracedGradients | None = None
        #: Bytes of an example's block for each variable whose gradients the batched way gives.
        self.by_rules: dict[int, int] = {}
        if method == "auto" and not network.couples_examples:
            if not getattr(head, "has_classes", True):
                network.check(x, y)  # finds the dtypes that the loss wants, before it is traced
            self._trace(x, y)
        else:
            network.check(x, y)

    @property
    def without_rule(self) -> list[int]:
        """The indices of the variables that are computed one example after the other."""
        return [i for i in range(len(self._network.variables)) if i not in self.by_rules]

    @property
    def _budget(self) -> int:
        """Bytes for the blocks of one pass."""
        wanted = _CHUNK * self._traced.activation_bytes if self._traced else self._bound
        return self._bound - min(self._bound // 4, max(self._bound // 8, wanted))

    def tile(self, n: int) -> int:
        """How many examples' rows are multiplied together, of n."""
        if self._kind is TapeJacobian:  # whole chunks, which examples of a chunk may depend on
            chunk = self._chunk_size or DEFAULT_CHUNK
            return max(chunk, MAX_TILE // chunk * chunk)
        return -(-n // -(-n // MAX_TILE))

    def _chunk(self, n: int) -> int:
        """How many examples of a tile are put through the network together."""
        largest = tile = self.tile(n)
        if self._traced is not None:
            needed = n * sum(self.by_rules.values())
            left = self._bound - min(self._budget, needed)
            largest = max(1, min(tile, left // max(self._traced.activation_bytes, 1)))
        return min(self._chunk_size or n, -(-tile // -(-tile // largest)))

    def passes(self, x: Any, y: tf.Tensor) -> list[Pass]:
        """Returns the passes over all the examples, traced."""
        n = len(y)
        sizes = self._network.sizes
        slow = {i: (sizes[i], sizes[i] * self._itemsize(i)) for i in self.without_rule}
        fast = {i: (sizes[i], self.by_rules[i]) for i in self.by_rules}
        found = [self._by_rules(pieces, n) for pieces in self._groups(fast, n)]
        return found + [self._by_differentiation(pieces, x, y) for pieces in self._groups(slow, n)]

    def whole(self, x: Any, y: tf.Tensor, layers: Sequence[int] | None = None) -> Callable | None:
        """A function `(x, y) -> (head, products, blocks of a sample)` where one chunk suffices.

        In one graph, gradients are multiplied while others are computed. Blocks for comparison,
        of the first `ERROR_SAMPLE` examples, are multiplied outside: that needs no tracing. With
        `layers`, the number of the layer of each variable, the products are those of each layer,
        in float64, and there is no sample.
        """
        passes = self.passes(x, y)
        n = len(y)
        if len(passes) != 1 or n > passes[0].chunk_size:
            return None
        (only,) = passes
        length = n if self._kind is TapeJacobian and not only.by_rules else None

        def trace() -> Callable:
            @tf.function(input_signature=_signature(x, y, length), autograph=False)
            def whole(x: Any, y: tf.Tensor) -> tuple[HeadOutput, tf.Tensor, list[Block]]:
                head, blocks = only.function(x, y)
                if layers is not None:
                    of_blocks = [layers[piece.index] for piece in only.pieces]
                    products = layer_products(of_blocks, max(layers) + 1, blocks, blocks)
                    return head, products, []
                blocks = narrow_joined(blocks)
                return head, inner_products(blocks, blocks, tf.float32), sample(blocks)

            return whole.get_concrete_function()

        return self._once(("whole", only.pieces, length, layers is None), trace)

    def _itemsize(self, index: int) -> int:
        return tf.as_dtype(self._network.variables[index].dtype).size

    def _trace(self, x: Any, y: tf.Tensor) -> None:
        options = {"layer_rules": True, "unroll": True}
        while True:
            with TRACING:
                traced = TracedGradients(
                    self._network, self._head, _signature(x, y, None), **options
                )
                if traced.unrolled and not self._same_logits(traced, x, y):
                    options["unroll"] = False
                    continue
                self._network.check(x, y, functools.partial(traced.logits, y=y))
                self.by_rules = traced.verified(x, y)
            self._traced = traced
            wrong = [
                layer
                for layer in traced.layers
                if not {id(v) for v in layer.trainable_variables}
                <= {id(self._network.variables[i]) for i in self.by_rules}
            ]
            if not wrong:
                return
            options["layer_rules"] = False
            warnings.warn(
                f"The rule registered for {type(wrong[0]).__name__} does not agree with ordinary "
                f"gradients of `{wrong[0].name}`; no registered rule is used for this model.",
                stacklevel=2,
            )

    def _same_logits(self, traced: TracedGradients, x: Any, y: tf.Tensor) -> bool:
        """Whether unrolling the layers leaves the network's outputs as they are."""
        few = take(x, slice(0, 8))
        actual, expected = traced.logits(few, y).numpy(), self._network.logits(few).numpy()
        tolerance = 1e3 * np.finfo(expected.dtype).eps * np.abs(expected).max()
        return bool(np.abs(actual - expected).max() <= tolerance)

    def _by_rules(self, pieces: tuple[Piece, ...], n: int) -> Pass:
        traced = self._traced
        assert traced is not None  # or there would be no rules

        def trace() -> Callable:
            @tf.function(input_signature=traced.function.input_signature[:2], autograph=False)
            def blocks(x: Any, y: tf.Tensor) -> tuple[HeadOutput, list[Block]]:
                result = traced(x, y)
                return result.head, [piece.of(result.blocks[piece.index]) for piece in pieces]

            return blocks.get_concrete_function()

        return Pass(self._once(("rules", pieces), trace), self._chunk(n), pieces, True)

    def _by_differentiation(self, pieces: tuple[Piece, ...], x: Any, y: tf.Tensor) -> Pass:
        n = len(y)
        indices = tuple(dict.fromkeys(piece.index for piece in pieces))
        largest = max(self._network.sizes[i] * self._itemsize(i) for i in indices)
        chunk = max(1, min(self._chunk(n), self._budget // largest))
        if self._kind is TapeJacobian:
            chunk = min(self._chunk_size or DEFAULT_CHUNK, n)
        # The Jacobian of a chunk is a graph for chunks of one size.
        tile = self.tile(n)
        lengths: set[int | None] = {None}
        if self._kind is TapeJacobian:
            lengths = {chunk}
            lengths.update(len(part) % chunk or chunk for part in _tiles(n, tile))
        functions: dict[int | None, Callable] = {}
        for length in lengths:
            sample = (take(x, slice(0, length or 2)), y[: length or 2])

            def trace(length: int | None = length, sample: tuple[Any, Any] = sample) -> Callable:
                return traced_and_verified(
                    self._kind,
                    self._network,
                    self._head,
                    indices,
                    _signature(*sample, length),
                    sample,
                )

            functions[length] = self._once(("tape", indices, length), trace)
        function = functools.partial(_by_length, functions, pieces)
        return Pass(function, chunk, pieces, False)

    def _groups(self, sizes: dict[int, tuple[int, int]], n: int) -> list[tuple[Piece, ...]]:
        """Pieces whose blocks of n examples fit into the memory together, in as few passes.

        The last layers come first: a pass for these need not go back to the others.
        """
        groups: list[list[Piece]] = []
        left = 0
        for index, (size, nbytes) in sorted(sizes.items(), reverse=True):
            column = n * self._itemsize(index)
            # Factors, which are smaller than rows, are not cut unless they must be.
            cut = n * nbytes >= min(size * column, self._budget + 1)
            stop = size
            while stop:
                needed = column if cut else n * nbytes
                if not groups or left < needed:
                    groups.append([])
                    left = self._budget
                width = min(stop, max(1, left // column)) if cut else size
                piece = Piece(index, stop - width, stop)
                groups[-1].append(Piece(index) if width == size else piece)
                left -= width * column if cut else needed
                stop -= width
        return [tuple(sorted(group)) for group in groups]

    def _once(self, key: tuple, trace: Callable) -> Callable:
        """A function traced the first time it is asked for.

        As a concrete function: TensorFlow takes the functions of many models for one that is traced
        again and again, and would warn of that.
        """
        if key not in self._functions:
            with TRACING:
                self._functions[key] = trace()
        return self._functions[key]


def sample(blocks: list[Block]) -> list[Block]:
    """The blocks of the first examples, on which float32 products are compared with float64."""
    return [tf.nest.map_structure(lambda t: t[:ERROR_SAMPLE], block) for block in blocks]


def _tiles(n: int, tile: int) -> list[range]:
    return [range(start, min(n, start + tile)) for start in range(0, n, tile)]


def _signature(x: Any, y: tf.Tensor, length: int | None) -> tuple:
    """Of (x, y) with `length` examples; None is any number."""

    def spec(leaf: tf.Tensor) -> tf.TensorSpec:
        return tf.TensorSpec([length, *leaf.shape[1:]], leaf.dtype)

    return keras.tree.map_structure(spec, x), spec(y)


def _by_length(
    functions: dict[int | None, Callable], pieces: tuple[Piece, ...], x: Any, y: tf.Tensor
) -> tuple[HeadOutput, list[Block]]:
    function = functions[y.shape[0] if y.shape[0] in functions else None]
    head, blocks = function(x, y)
    return head, [piece.of(blocks[piece.index]) for piece in pieces]
