"""Which variables' gradients are computed how, in which passes and chunks, within a memory bound."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from infomcr_tf.characterization.head import Head
from infomcr_tf.characterization.jacobian import OneExampleGradients, TapeJacobian
from infomcr_tf.characterization.layer_gradients import (
    InnerGraphError,
    LayerGradients,
    checked_layers,
)
from infomcr_tf.characterization.network import TRACING, Network

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
        self._jacobian = method == "jacobian" or network.couples_examples
        self._chunk_size = chunk_size
        self._budget = max_memory_bytes // 2
        self._layers = []
        # Bytes of an example's block, for each variable, as rows and by layer rules.
        self._bytes = [
            size * tf.as_dtype(v.dtype).size
            for size, v in zip(network.sizes, network.variables, strict=True)
        ]
        self._by_rules: dict[int, int] = {}
        self._activation_bytes = 0
        self._functions: dict[tuple, Callable] = {}
        if method == "auto" and not self._jacobian:
            with TRACING:
                checked = checked_layers(network, x)
            self._layers, self._by_rules, self._activation_bytes = checked

    @property
    def without_rule(self) -> list[str]:
        """Paths of the variables whose gradients are not computed by layer rules."""
        return [v.path for i, v in enumerate(self._network.variables) if i not in self._by_rules]

    def passes(self, x: Any, n: int) -> list[Pass]:
        """Returns the passes over n examples that are like `x`, traced."""
        while True:
            try:
                return self._traced(x, n)
            except InnerGraphError as error:
                self._give_up(error.layers)

    def _traced(self, x: Any, n: int) -> list[Pass]:
        rest = {i: b for i, b in enumerate(self._bytes) if i not in self._by_rules}
        automatic = TapeJacobian if self._jacobian else OneExampleGradients
        passes = [
            Pass(self._function(LayerGradients, group, x, None), self._rule_chunk(n))
            for group in self._groups(self._by_rules, n)
        ]
        chunk = min(self._chunk_size or DEFAULT_CHUNK, n)
        sizes = {chunk, n % chunk or chunk} if self._jacobian else {None}
        for group in self._groups(rest, n):
            functions = {size: self._function(automatic, group, x, size) for size in sizes}
            passes.append(Pass(lambda x, y, f=functions: f.get(len(y), f.get(None))(x, y), chunk))
        return passes

    def _rule_chunk(self, n: int) -> int:
        """Chunks as large as the memory allows, and equally large."""
        if self._chunk_size:
            return self._chunk_size
        largest = max(1, self._budget // max(self._activation_bytes, 1))
        return -(-n // -(-n // largest))

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

    def _function(
        self, kind: type, group: tuple[int, ...], x: Any, batch: int | None
    ) -> Callable:
        """A traced function of `batch` examples, (x, y) -> (HeadOutput, {index: Block})."""

        def spec(leaf: tf.Tensor) -> tf.TensorSpec:
            return tf.TensorSpec([batch, *leaf.shape[1:]], leaf.dtype)

        signature = (keras.tree.map_structure(spec, x), tf.TensorSpec([batch], tf.int64))
        key = (kind, group, repr(signature))
        if key not in self._functions:
            layers = (self._layers,) if kind is LayerGradients else ()
            source = kind(self._network, self._head, group, *layers)
            function = tf.function(source, input_signature=signature, autograph=False)
            with TRACING:
                function.get_concrete_function()
            self._functions[key] = function
        return self._functions[key]

    def _give_up(self, layers: list[keras.layers.Layer]) -> None:
        """Takes layers out of those whose rules are used."""
        ids = {id(v) for layer in layers for v in layer.trainable_variables}
        self._layers = [layer for layer in self._layers if layer not in layers]
        variables = self._network.variables
        self._by_rules = {
            i: b for i, b in self._by_rules.items() if id(variables[i]) not in ids
        }
