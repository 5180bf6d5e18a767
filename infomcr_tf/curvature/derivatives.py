"""First derivatives in both directions, dense and with zeros for what is not reached."""

import tensorflow as tf


def pull_back(
    tape: tf.GradientTape, targets: list[tf.Tensor], sources: list, cotangents: list | None = None
) -> list[tf.Tensor]:
    """Returns the vector-Jacobian products `sum_t cotangent_t^T d target_t / d source`."""
    parts = tape.gradient(
        targets,
        sources,
        output_gradients=cotangents,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return [tf.convert_to_tensor(part) for part in parts]  # embeddings give IndexedSlices


def push_forward(
    tape: tf.GradientTape, target: tf.Tensor, sources: list, tangents: list[tf.Tensor]
) -> tf.Tensor:
    """Returns the Jacobian-vector product `sum_s (d target / d source) tangent_s`.

    `J^T u` is linear in u, so its derivative is J for every u; the graph keeps of `J^T u` only what
    that needs.

    Args:
        tape: a persistent tape that has recorded the target.
        target: of any shape.
        sources: of the derivative.
        tangents: like the sources.
    """
    u = tf.zeros_like(target)
    with tf.GradientTape() as dual:
        dual.watch(u)
        pulled = pull_back(tape, [target], sources, [u])
    return pull_back(dual, pulled, [u], tangents)[0]
