"""Per-example gradients of any Keras model, and the Gram matrices of them."""

from infomcr_tf.gradients.gram import (
    GradientEngine,
    GramMatrix,
    gram_matrix,
    per_example_jacobian,
)

__all__ = ["GradientEngine", "GramMatrix", "gram_matrix", "per_example_jacobian"]
