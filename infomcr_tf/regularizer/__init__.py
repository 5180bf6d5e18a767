"""The paper's regulariser (section 6): the penalty, the model trained with it, its schedules."""

from infomcr_tf.regularizer.alpha_report import AlphaReport, check_alpha
from infomcr_tf.regularizer.beta_schedule import (
    SCHEDULES,
    BetaCurve,
    BetaSchedule,
    register_beta_schedule,
)
from infomcr_tf.regularizer.data_term import DATA_TERMS
from infomcr_tf.regularizer.fisher_regularized_model import FisherRegularizedModel
from infomcr_tf.regularizer.penalty import fisher_penalty
from infomcr_tf.regularizer.sharpness_aware_model import SharpnessAwareModel

__all__ = [
    "DATA_TERMS",
    "SCHEDULES",
    "AlphaReport",
    "BetaCurve",
    "BetaSchedule",
    "FisherRegularizedModel",
    "SharpnessAwareModel",
    "check_alpha",
    "fisher_penalty",
    "register_beta_schedule",
]
