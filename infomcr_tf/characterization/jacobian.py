"""Rows of the Jacobian J [N', W] by automatic differentiation, for any network.

$J_j = \\nabla_w \\ell(f_w(x_j), y_j)$ (Eq. 4 and 5 of the paper). A row is $e^{s_j}$ times the
vector-Jacobian product of the logits with a unit cotangent, where $s_j$ and the cotangent come from
`Head`; the functions here return the products.
"""

import warnings
from typing import Any

import keras
import tensorflow as tf

from infomcr_tf.characterization.blocks import Block, Rows
from infomcr_tf.characterization.head import Head, HeadOutput
from infomcr_tf.characterization.network import Network


class OneExampleGradients:
    """A gradient of one example, vectorised over examples (`tf.vectorized_map`).

    Args:
        network: the network.
        head: the head.
        indices: the variables, as indices of `network.variables`.
    """

    def __init__(self, network: Network, head: Head, indices: tuple[int, ...]) -> None:
        self._network = network
        self._head = head
        self._indices = indices

    def __call__(self, x: Any, y: tf.Tensor) -> tuple[HeadOutput, dict[int, Block]]:
        """Returns what the head says, and a block for each variable. Traceable."""
        logits = self._network.logits(x)
        head = self._head(logits, y)

        def one(example: tuple) -> list[tf.Tensor]:
            x, cotangent = example
            x = keras.tree.map_structure(lambda leaf: leaf[None], x)
            with tf.GradientTape() as tape:
                logits = self._network.logits(x)
            gradients = tape.gradient(
                logits,
                self._values(),
                output_gradients=cotangent[None],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            return [tf.convert_to_tensor(gradient) for gradient in gradients]

        cotangents = tf.cast(head.unit_cotangents, logits.dtype)
        return head, self._blocks(tf.vectorized_map(one, (x, cotangents)))

    def _values(self) -> list[tf.Variable]:
        return [self._network.variables[i].value for i in self._indices]

    def _blocks(self, gradients: list[tf.Tensor]) -> dict[int, Block]:
        sizes = [self._network.sizes[i] for i in self._indices]
        flat = [tf.reshape(g, [-1, size]) for g, size in zip(gradients, sizes, strict=True)]
        return {i: Rows(rows) for i, rows in zip(self._indices, flat, strict=True)}


class TapeJacobian(OneExampleGradients):
    """`tf.GradientTape.jacobian` of the examples of a chunk.

    It carries n cotangents through a chunk of n examples, which is quadratic in n but also right
    where examples depend on each other, as with BatchNorm's batch statistics.
    """

    def __call__(self, x: Any, y: tf.Tensor) -> tuple[HeadOutput, dict[int, Block]]:
        """Returns what the head says, and a block for each variable. Traceable."""
        with tf.GradientTape(persistent=True) as tape:
            logits = self._network.logits(x)
            with tape.stop_recording():
                head = self._head(logits, y)
                cotangents = tf.cast(head.unit_cotangents, logits.dtype)
            products = tf.reduce_sum(logits * cotangents, axis=-1)
        zero = {"unconnected_gradients": tf.UnconnectedGradients.ZERO}
        try:
            rows = tape.jacobian(products, self._values(), **zero)
        except ValueError as error:
            warnings.warn(
                "TensorFlow cannot vectorise the Jacobian of this model; it is computed one "
                f"example at a time, which is slow. ({str(error).splitlines()[0]})",
                stacklevel=2,
            )
            rows = tape.jacobian(products, self._values(), experimental_use_pfor=False, **zero)
        return head, self._blocks(rows)
