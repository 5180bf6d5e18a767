"""Rows of the Jacobian J [N', W] by automatic differentiation, for any network.

$J_j = \\nabla_w \\ell(f_w(x_j), y_j)$ (Eq. 4 and 5 of the paper). A row is $e^{s_j}$ times the
vector-Jacobian product of the logits with a unit cotangent, where $s_j$ and the cotangent come from
`Head`; the functions here return the products.
"""

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.characterization.head import Head, HeadOutput
from infomcr_tf.characterization.network import Network


class OneExampleGradients:
    """A gradient of one example, vectorised over examples (`tf.vectorized_map`).

    Args:
        network: the network.
        head: the head.
        variables: the variables to differentiate with respect to.
    """

    def __init__(self, network: Network, head: Head, variables: list[keras.Variable]) -> None:
        self._network = network
        self._head = head
        self._variables = variables

    def __call__(self, x: Any, y: tf.Tensor) -> tuple[HeadOutput, tf.Tensor]:
        """Returns what the head says, and the rows [n, W of the variables]. Traceable."""
        logits = self._network.logits(x)
        head = self._head(logits, y)

        def one(example: tuple) -> tf.Tensor:
            x, cotangent = example
            x = keras.tree.map_structure(lambda leaf: leaf[None], x)
            with tf.GradientTape() as tape:
                logits = self._network.logits(x)
            gradients = tape.gradient(
                logits, self._values(), output_gradients=cotangent[None]
            )
            return _flatten(gradients, self._variables, axis=0)

        cotangents = tf.cast(head.unit_cotangents, logits.dtype)
        return head, tf.vectorized_map(one, (x, cotangents))

    def _values(self) -> list[tf.Variable]:
        return [v.value for v in self._variables]


class TapeJacobian(OneExampleGradients):
    """`tf.GradientTape.jacobian` of the examples of a chunk.

    It carries n cotangents through a chunk of n examples, which is quadratic in n but also right
    where examples depend on each other, as with BatchNorm's batch statistics.
    """

    def __call__(self, x: Any, y: tf.Tensor) -> tuple[HeadOutput, tf.Tensor]:
        """Returns what the head says, and the rows [n, W of the variables]. Traceable."""
        with tf.GradientTape(persistent=True) as tape:
            logits = self._network.logits(x)
            with tape.stop_recording():
                head = self._head(logits, y)
                cotangents = tf.cast(head.unit_cotangents, logits.dtype)
            products = tf.reduce_sum(logits * cotangents, axis=-1)
        try:
            rows = tape.jacobian(products, self._values())
        except ValueError as error:
            warnings.warn(
                "TensorFlow cannot vectorise the Jacobian of this model; it is computed one "
                f"example at a time, which is slow. ({str(error).splitlines()[0]})",
                stacklevel=2,
            )
            rows = tape.jacobian(products, self._values(), experimental_use_pfor=False)
        return head, _flatten(rows, self._variables, axis=1)


def _flatten(parts: list, variables: list[keras.Variable], axis: int) -> tf.Tensor:
    """Joins one part for each variable; `axis` axes in front are kept."""
    flat = []
    for part, variable in zip(parts, variables, strict=True):
        size = int(np.prod(variable.shape))
        if part is None:
            raise ValueError(f"The logits do not depend on the trainable variable {variable.path}.")
        flat.append(tf.reshape(tf.convert_to_tensor(part), [-1, size] if axis else [size]))
    return tf.concat(flat, axis=-1)
