"""Which variables' gradients are computed how, in which passes and chunks of examples."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from infomcr_tf.gradients.examples import take
from infomcr_tf.gradients.head import Head
from infomcr_tf.gradients.layer_gradients import (
    InnerGraphError,
    LayerGradients,
    checked_layers,
)
from infomcr_tf.gradients.network import TRACING, Network
from infomcr_tf.gradients.tape_gradients import (
    OneExampleGradients,
    TapeJacobian,
    traced_and_verified,
)

METHODS = ("auto", "one_example", "jacobian")
# Examples of a chunk where nothing else decides; the authors' choice for BatchNorm's statistics.
DEFAULT_CHUNK = 10


class Pass(NamedTuple):
    """One run over all examples, which gives the blocks of some variables."""

    function: Callable
    chunk_size: int


class Plan:
    """Chooses passes for a network, and traces them.

    Half of the memory bound is for what is kept of all examples, the blocks of one pass; half for
    the activations of the examples of one chunk.

    Args:
        network: the network.
        head: the head.
        method: one of `METHODS`.
        chunk_size: examples of a chunk, or None.
        max_memory_bytes: the bound.
        x: two examples, to check layer rules with.
    """

    def __init__(
        self,
        network: Network,
        head: Head,
        *,
        method: str,
        chunk_size: int | None,
        max_memory_bytes: int,
        x: Any,
    ) -> None:
        self._network = network
        self._head = head
        self._kind = TapeJacobian if method == "jacobian" else OneExampleGradients
        if network.couples_examples:
            self._kind = TapeJacobian
        self._chunk_size = chunk_size
        self._budget = max_memory_bytes // 2
        self._functions: dict[tuple, Callable] = {}
        self._covered = []
        self._activation_bytes = 0
        if method == "auto" and not network.couples_examples:
            with TRACING:
                self._covered, self._activation_bytes = checked_layers(network, x)

    @property
    def without_rule(self) -> list[str]:
        """Paths of the variables whose gradients are not computed by layer rules."""
        by_rules = self._bytes_by_rules()
        return [v.path for i, v in enumerate(self._network.variables) if i not in by_rules]

    def passes(self, x: Any, y: tf.Tensor) -> list[Pass]:
        """Returns the passes over examples of these shapes, traced."""
        while True:
            try:
                return self._by_rules(x, y) + self._by_differentiation(x, y)
            except InnerGraphError as error:
                given_up = error.layers
                self._covered = [c for c in self._covered if c.layer not in given_up]

    def _by_rules(self, x: Any, y: tf.Tensor) -> list[Pass]:
        n = len(y)
        # Chunks are as large as the memory allows, and equally large.
        largest = max(1, self._budget // max(self._activation_bytes, 1))
        chunk = self._chunk_size or -(-n // -(-n // largest))
        layers = [covered.layer for covered in self._covered]

        def trace(group: tuple[int, ...], signature: tuple) -> Callable:
            source = LayerGradients(self._network, self._head, group, layers)
            function = tf.function(source, input_signature=signature, autograph=False)
            function.get_concrete_function()
            return function

        return [
            Pass(self._traced(trace, group, _signature(x, y, None)), chunk)
            for group in self._groups(self._bytes_by_rules(), n)
        ]

    def _by_differentiation(self, x: Any, y: tf.Tensor) -> list[Pass]:
        by_rules = self._bytes_by_rules()
        sizes = {
            i: size * tf.as_dtype(v.dtype).size
            for i, (size, v) in enumerate(
                zip(self._network.sizes, self._network.variables, strict=True)
            )
            if i not in by_rules
        }
        n = len(y)
        chunk = min(self._chunk_size or DEFAULT_CHUNK, n)
        # The Jacobian of a chunk is a graph for chunks of one size.
        lengths = {chunk, n % chunk or chunk} if self._kind is TapeJacobian else {None}
        passes = []
        for group in self._groups(sizes, n):
            functions = {}
            for length in lengths:
                first = slice(0, length or 2)
                sample = (take(x, first), y[first])

                def trace(
                    group: tuple[int, ...], signature: tuple, sample: tuple = sample
                ) -> Callable:
                    return traced_and_verified(
                        self._kind, self._network, self._head, group, signature, sample
                    )

                functions[length] = self._traced(trace, group, _signature(x, y, length))
            passes.append(Pass(functools.partial(_by_length, functions), chunk))
        return passes

    def _bytes_by_rules(self) -> dict[int, int]:
        """The bytes of an example's block for each variable with a rule."""
        return {index: n for covered in self._covered for index, n in covered.nbytes.items()}

    def _groups(self, sizes: dict[int, int], n: int) -> list[tuple[int, ...]]:
        """Variables whose blocks of n examples fit into the memory together."""
        groups, used = [], 0
        for index, size in sizes.items():
            if not groups or used + n * size > self._budget:
                groups.append([])
                used = 0
            groups[-1].append(index)
            used += n * size
        return [tuple(group) for group in groups]

    def _traced(self, trace: Callable, group: tuple[int, ...], signature: tuple) -> Callable:
        """The function of some variables and arguments, traced once."""
        key = (trace.__qualname__, group, repr(signature))
        if key not in self._functions:
            with TRACING:
                self._functions[key] = trace(group, signature)
        return self._functions[key]


def _signature(x: Any, y: tf.Tensor, length: int | None) -> tuple:
    """Of (x, y) with `length` examples; None is any number."""

    def spec(leaf: tf.Tensor) -> tf.TensorSpec:
        return tf.TensorSpec([length, *leaf.shape[1:]], leaf.dtype)

    return keras.tree.map_structure(spec, x), spec(y)


def _by_length(functions: dict[int | None, Callable], x: Any, y: tf.Tensor) -> tuple:
    return functions.get(len(y), functions.get(None))(x, y)
