"""Per-example gradients of a few examples as ordinary gradients, to hold faster ways against.

Neither layer rules nor TensorFlow's vectorisation may be trusted blindly: a layer may do more than
its class says, and vectorised gradients of some operations (such as grouped convolutions on a CPU)
are wrong without any error.
"""

import numpy as np
import tensorflow as tf

from infomcr_tf.gradients.network import Network

# A wrong gradient differs by far more, and TF32 products are accurate to 1e-3.
_RELATIVE = 1e-2
# Absolute: gradients that cancel, such as those of biases before a normalisation, are rounding.
_OF_ROW = 1e-5


def ordinary_gradients(
    network: Network,
    tape: tf.GradientTape,
    logits: tf.Tensor,
    cotangents: np.ndarray,
    indices: list[int],
) -> list[np.ndarray]:
    """Differentiates the logits of the first two examples, one at a time.

    Args:
        network: the network.
        tape: a persistent tape that has recorded the logits, eagerly.
        logits: [n, K].
        cotangents: [n, K].
        indices: of the variables in `network.variables`.

    Returns:
        For each variable [2, size] (or [1, size] where there is one example).
    """
    rows = []
    for j in range(min(2, len(cotangents))):
        alone = np.where(np.arange(len(cotangents))[:, None] == j, cotangents, 0)
        gradients = tape.gradient(
            logits,
            [network.variables[i].value for i in indices],
            output_gradients=tf.cast(alone, logits.dtype),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        rows.append([np.reshape(tf.convert_to_tensor(g), -1) for g in gradients])
    return [np.stack(parts) for parts in zip(*rows, strict=True)]


def agree(actual: list[np.ndarray], expected: list[np.ndarray]) -> list[bool]:
    """For each variable, whether gradients [n, size] agree but for rounding."""
    length = np.sqrt(sum(np.linalg.norm(part) ** 2 for part in expected))
    return [
        bool(np.linalg.norm(a - e) <= _RELATIVE * np.linalg.norm(e) + _OF_ROW * length)
        for a, e in zip(actual, expected, strict=True)
    ]
