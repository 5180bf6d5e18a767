"""Per-example gradients from one batched forward and backward pass, in one graph.

The graph of the network is searched for the operations in which variables meet examples (`uses`);
the rule of each makes per-example gradients of its inputs and its output's gradient. A rule holds
for what its operation is known to do, but examples may meet elsewhere, and a rule may be a user's:
`verified` finds out by comparing with ordinary gradients for which variables the result is right.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.gradients.blocks import Block, Rows, dense_rows, nbytes
from infomcr_tf.gradients.examples import num_examples
from infomcr_tf.gradients.head import Head, HeadOutput
from infomcr_tf.gradients.layer_rules import LAYER_RULES, LayerCall, recording
from infomcr_tf.gradients.loss_head import LossHead
from infomcr_tf.gradients.network import Network
from infomcr_tf.gradients.rows_of_variables import by_op_rules
from infomcr_tf.gradients.unrolling import unrolled
from infomcr_tf.gradients.uses import find_uses
from infomcr_tf.gradients.verification import agree


class Traced(NamedTuple):
    """What the graph gives for n examples.

    Attributes:
        logits: [n, K]
        head: what the head says of them.
        blocks: the per-example gradients, by the variable's index.
        ordinary: for each variable the sum of the gradients of all examples, by ordinary
            differentiation.
    """

    logits: tf.Tensor
    head: HeadOutput
    blocks: dict[int, Block]
    ordinary: list[tf.Tensor]


class TracedGradients:
    """The graph, for examples of one shape; traced once.

    Args:
        network: the network.
        head: the head.
        signature: of (x, y), the number of examples left open.
        layer_rules: whether rules that users registered are applied.
        unroll: whether recurrent layers are unrolled.
    """

    def __init__(
        self,
        network: Network,
        head: Head | LossHead,
        signature: tuple,
        *,
        layer_rules: bool = True,
        unroll: bool = True,
    ) -> None:
        self._network = network
        self._head = head
        self._layers = [
            layer
            for layer in network.layers()
            if layer_rules and type(layer) in LAYER_RULES and layer.trainable_variables
        ]
        #: Attributes that unroll the recurrent layers, if there are any.
        self.unrolled = unrolled(network.layers()) if unroll else []
        #: Bytes of an example's activations that are kept, and of the gradients that rules read.
        self.activation_bytes = 0
        cotangents = tf.TensorSpec([None, None], tf.float64)
        self.function = tf.function(
            self._trace,
            input_signature=(*signature, cotangents, tf.TensorSpec([], tf.bool)),
            autograph=False,
        )
        self.function.get_concrete_function()

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers whose gradients are computed by rules that users registered."""
        return self._layers

    def __call__(self, x: Any, y: tf.Tensor) -> Traced:
        """Returns the gradients of the cross-entropy. Traceable: unused results cost nothing."""
        return self.function(x, y, tf.zeros([1, 1], tf.float64), True)

    def logits(self, x: Any, y: tf.Tensor) -> tf.Tensor:
        """Returns the logits of examples, whatever their labels."""
        labels = tf.repeat(y[:1], num_examples(x), axis=0)
        with _not_optimised():
            return self(x, labels).logits

    def verified(self, x: Any, y: tf.Tensor) -> dict[int, int]:
        """Compares with ordinary gradients on up to three examples.

        Returns:
            The variables whose per-example gradients are right, with the bytes of an example's.
        """
        last = num_examples(x) - 1
        some = sorted({0, last // 2, last})
        x, y = take_some(x, some), tf.gather(y, some)
        num_classes = self.logits(x, y).shape[1]
        # Any cotangents will do; these are reproducible and treat no class alike.
        cotangents = np.random.default_rng(0).normal(size=(len(some), num_classes))
        each = range(len(some))
        only = [np.where(np.equal(each, j)[:, None], cotangents, 0) for j in each]
        with _not_optimised():
            together, *alone = (self.function(x, y, c, False) for c in (cotangents, *only))
        sizes: dict[int, int] = {}
        actual, expected = [], []
        for index, block in together.blocks.items():
            sizes[index] = nbytes(block)
            actual.append(dense_rows(block).numpy())
            rows = [np.reshape(one.ordinary[index], -1) for one in alone]
            expected.append(np.stack(rows))
        right = agree(actual, expected)
        return {i: size for (i, size), ok in zip(sizes.items(), right, strict=True) if ok}

    def _trace(self, x: Any, y: Any, cotangents: tf.Tensor, own: tf.Tensor) -> Traced:
        graph = tf.compat.v1.get_default_graph()
        values = [tf.identity(v.value) for v in self._network.variables]
        network_starts = len(graph.get_operations())
        calls: list[LayerCall] = []
        overrides = [*self.unrolled, *recording(self._layers, calls)]
        logits = self._network.logits(x, values, overrides)
        head_starts = len(graph.get_operations())
        operations = graph.get_operations()[network_starts:head_starts]
        head = self._head(logits, y)
        chosen = tf.cond(own, lambda: head.unit_cotangents, lambda: cotangents)
        chosen = tf.cast(tf.ensure_shape(chosen, logits.shape), logits.dtype)
        calls = [call for call in calls if getattr(call.outputs, "graph", None) is graph]
        uses, parameters = find_uses(operations, keras.tree.flatten(x), values)
        outputs = [*(u.op.outputs[0] for u in uses), *(c.outputs for c in calls)]
        gradients = tf.gradients(
            [logits],
            [*outputs, *values],
            grad_ys=[chosen],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        gradients = [tf.convert_to_tensor(g) for g in gradients]
        of_uses, of_calls = gradients[: len(uses)], gradients[len(uses) : len(outputs)]
        blocks = self._by_layer_rules(calls, of_calls)
        without = [i for i in range(len(values)) if i not in blocks]
        rules_start = len(graph.get_operations())
        blocks |= by_op_rules(uses, of_uses, values, without, parameters, tf.shape(logits)[0])
        later = graph.get_operations()
        read = _bytes_read(later[head_starts:]) | _bytes_read(later[rules_start:])
        self.activation_bytes = sum(read.values())
        return Traced(logits, head, blocks, gradients[len(outputs) :])

    def _by_layer_rules(
        self, calls: list[LayerCall], gradients: list[tf.Tensor]
    ) -> dict[int, Block]:
        indices = {id(v): i for i, v in enumerate(self._network.variables)}
        blocks: dict[int, Block] = {}
        for layer in self._layers:
            pairs = [
                (call.inputs, gradient)
                for call, gradient in zip(calls, gradients, strict=True)
                if call.layer is layer
            ]
            for variable, rows in LAYER_RULES[type(layer)](layer, pairs) if pairs else []:
                if id(variable) in indices:
                    size = int(np.prod(variable.shape))
                    rows = tf.reshape(tf.convert_to_tensor(rows), [-1, size])
                    blocks[indices[id(variable)]] = Rows((rows,))
        return blocks


@contextlib.contextmanager
def _not_optimised() -> Iterator[None]:
    """Graphs first run within it run as they were traced: optimising takes longer than that."""
    options = tf.config.optimizer
    before = options.get_experimental_options().get("disable_meta_optimizer", False)
    options.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        options.set_experimental_options({"disable_meta_optimizer": before})


def _bytes_read(operations: list[tf.Operation]) -> dict[Any, int]:
    """The memory of an example's share of the tensors that operations read and others made."""
    made = {tensor.ref() for op in operations for tensor in op.outputs}
    return {
        tensor.ref(): tensor.dtype.size * (tensor.shape[1:].num_elements() or 0)
        for op in operations
        if op.type not in ("Shape", "ShapeN")
        for tensor in op.inputs
        if tensor.shape.rank and tensor.shape[0] is None and tensor.ref() not in made
    }


def take_some(x: Any, indices: list[int]) -> Any:
    """The examples of a structure of tensors at some indices."""
    return keras.tree.map_structure(lambda leaf: tf.gather(leaf, indices), x)
