"""Per-example gradients of any Keras model, and the Gram matrices of them."""

from infomcr_tf.gradients.gram import GradientEngine, gram_matrix, per_example_jacobian
from infomcr_tf.gradients.gram_result import GramMatrix
from infomcr_tf.gradients.layer_rules import register_layer_rule

__all__ = [
    "GradientEngine",
    "GramMatrix",
    "gram_matrix",
    "per_example_jacobian",
    "register_layer_rule",
]
