"""What kind of minimum a network has been trained to."""

from infomcr_tf.characterization.bounds import (
    FisherInformationApproximation,
    GeneralizationBound,
    fisher_information_approximation,
    gamma_from_gamma_hat,
    generalization_bound,
)
from infomcr_tf.characterization.callback import CharacterizeCallback
from infomcr_tf.characterization.characterize import characterize
from infomcr_tf.characterization.fisher import (
    exact_fisher,
    exact_gamma,
    exact_hessian,
    fisher_hessian_difference,
)
from infomcr_tf.characterization.metric_table import METRICS, Metric, Number, register_metric
from infomcr_tf.characterization.per_layer import LayerReport, PerLayer
from infomcr_tf.characterization.report import MinimumReport
from infomcr_tf.characterization.settings import PROTOCOLS
from infomcr_tf.gradients.examples import check_examples
from infomcr_tf.gradients.gram import GradientEngine, gram_matrix, per_example_jacobian
from infomcr_tf.gradients.gram_result import GramMatrix

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "CharacterizeCallback",
    "FisherInformationApproximation",
    "GeneralizationBound",
    "GradientEngine",
    "GramMatrix",
    "LayerReport",
    "Metric",
    "MinimumReport",
    "Number",
    "PerLayer",
    "characterize",
    "check_examples",
    "exact_fisher",
    "exact_gamma",
    "exact_hessian",
    "fisher_hessian_difference",
    "fisher_information_approximation",
    "gamma_from_gamma_hat",
    "generalization_bound",
    "gram_matrix",
    "per_example_jacobian",
    "register_metric",
]
