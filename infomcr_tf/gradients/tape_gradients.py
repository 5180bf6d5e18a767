r"""Rows of the Jacobian J [N', W] by automatic differentiation, for any network.

$J_j = \nabla_w \ell(f_w(x_j), y_j)$ (Eq. 4 and 5 of the paper). A row is $e^{s_j}$ times the
vector-Jacobian product of the logits with a unit cotangent, where $s_j$ and the cotangent come from
`Head`; the functions here return the products.
"""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.gradients.blocks import Block, Rows
from infomcr_tf.gradients.head import Head, HeadOutput
from infomcr_tf.gradients.loss_head import LossHead
from infomcr_tf.gradients.network import NOT_PER_EXAMPLE, Network
from infomcr_tf.gradients.verification import agree, ordinary_gradients


class OneExampleGradients:
    """One ordinary gradient after the other, in a loop inside the graph.

    Deliberately not `tf.vectorized_map`, which would be faster: with oneDNN, TensorFlow 2.21 writes
    outside of its memory when it runs the vectorised gradients of an attention layer.

    Args:
        network: the network.
        head: the head.
        indices: the variables, as indices of `network.variables`.
    """

    def __init__(self, network: Network, head: Head | LossHead, indices: tuple[int, ...]) -> None:
        self._network = network
        self._head = head
        self._indices = indices

    def __call__(self, x: Any, y: tf.Tensor) -> tuple[HeadOutput, dict[int, Block]]:
        """Returns what the head says, and a block for each variable. Traceable."""

        def one(example: tuple) -> tuple[HeadOutput, list[tf.Tensor]]:
            x, y = keras.tree.map_structure(lambda leaf: leaf[None], example)
            with tf.GradientTape() as tape:
                logits = self._network.logits(x)
                with tape.stop_recording():
                    head = self._head(logits, y)
            gradients = tape.gradient(
                logits,
                self._values(),
                output_gradients=tf.cast(head.unit_cotangents, logits.dtype),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            head = HeadOutput(*(part[0] for part in head))
            return head, [tf.convert_to_tensor(gradient) for gradient in gradients]

        float64, boolean = tf.float64, tf.bool
        dtypes = HeadOutput(float64, boolean, float64, float64, boolean)
        head, gradients = tf.map_fn(
            one,
            (x, y),
            fn_output_signature=(dtypes, [v.dtype for v in self._values()]),
            parallel_iterations=1,
        )
        return head, self._blocks(gradients)

    def _values(self) -> list[tf.Variable]:
        return [self._network.variables[i].value for i in self._indices]

    def _blocks(self, gradients: list[tf.Tensor]) -> dict[int, Block]:
        sizes = [self._network.sizes[i] for i in self._indices]
        flat = [tf.reshape(g, [-1, size]) for g, size in zip(gradients, sizes, strict=True)]
        return {i: Rows((rows,)) for i, rows in zip(self._indices, flat, strict=True)}


class TapeJacobian(OneExampleGradients):
    """`tf.GradientTape.jacobian` of the examples of a chunk.

    It carries n cotangents through a chunk of n examples, which is quadratic in n but also right
    where examples depend on each other, as with BatchNorm's batch statistics.

    Args:
        network: the network.
        head: the head.
        indices: the variables, as indices of `network.variables`.
        vectorized: False carries one cotangent after the other through the chunk.
    """

    def __init__(
        self,
        network: Network,
        head: Head | LossHead,
        indices: tuple[int, ...],
        vectorized: bool = True,
    ) -> None:
        super().__init__(network, head, indices)
        self._vectorized = vectorized

    def __call__(self, x: Any, y: tf.Tensor) -> tuple[HeadOutput, dict[int, Block]]:
        """Returns what the head says, and a block for each variable. Traceable."""
        with tf.GradientTape(persistent=True) as tape:
            logits = self._network.logits(x)
            with tape.stop_recording():
                head = self._head(logits, y)
                cotangents = tf.cast(head.unit_cotangents, logits.dtype)
            products = tf.reduce_sum(logits * cotangents, axis=-1)
        rows = tape.jacobian(
            products,
            self._values(),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
            experimental_use_pfor=self._vectorized,
        )
        return head, self._blocks(rows)


def traced_and_verified(
    kind: type[OneExampleGradients],
    network: Network,
    head: Head | LossHead,
    indices: tuple[int, ...],
    signature: tuple,
    sample: tuple[Any, tf.Tensor],
) -> Callable:
    """Traces a form that gives right rows; where the vectorised Jacobian does not, the slow one.

    Args:
        kind: `OneExampleGradients` or `TapeJacobian`.
        network: the network.
        head: the head.
        indices: the variables, as indices of `network.variables`.
        signature: of the arguments (x, y).
        sample: (x, y) of that signature, to compare with ordinary gradients on.

    Raises:
        ValueError: if no form is right: there are no per-example gradients.
    """

    def right(*options: bool) -> Callable | None:
        source = kind(network, head, indices, *options)
        traceable = tf.function(source, input_signature=signature, autograph=False)
        function = traceable.get_concrete_function()
        return function if _is_right(function, network, head, indices, sample) else None

    function = None
    if kind is TapeJacobian:
        try:
            function, reason = right(), "its result is not right"
        except Exception as error:  # TensorFlow has no one class of error for this.
            reason = str(error).strip().splitlines()[0]
        if function is None:
            warnings.warn(
                "TensorFlow cannot vectorise the Jacobian of this model; it is computed one row "
                f"after the other, which is slow. The reason: {reason}",
                stacklevel=2,
            )
            function = right(False)
    else:
        function = right()
    if function is None:
        raise ValueError(NOT_PER_EXAMPLE)
    return function


def _is_right(
    function: Callable,
    network: Network,
    head: Head | LossHead,
    indices: tuple[int, ...],
    sample: tuple,
) -> bool:
    """Compares the first two rows with ordinary gradients."""
    x, y = sample
    with tf.GradientTape(persistent=True) as tape:
        logits = network.logits(x)
    cotangents = head(logits, y).unit_cotangents.numpy()
    expected = ordinary_gradients(network, tape, logits, cotangents, list(indices))
    _, blocks = function(x, y)
    actual = [np.concatenate(list(blocks[i].slices()), axis=1)[:2] for i in indices]
    return all(agree(actual, expected))
