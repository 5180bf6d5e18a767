"""Measure how well a minimum of a neural network generalises, and train networks into better ones.

TensorFlow/Keras implementation of Jia & Su, "Information-Theoretic Local Minima Characterization
and Regularization" (ICML 2020).

- Training: `FisherRegularizedModel`, `BetaSchedule`, `fisher_penalty`, `check_alpha`; to compare
  with, `SharpnessAwareModel`.
- Measuring: `characterize`, `MinimumReport`, `CharacterizeCallback`; side by side: `compare`.
- Theory: `generalization_bound`, `fisher_information_approximation`, `gamma_from_gamma_hat`.
- The paper's networks and data: `models`, `data`.
"""

from typing import TYPE_CHECKING

from infomcr_tf.lazy import lazy_names

if TYPE_CHECKING:
    from infomcr_tf import data, models
    from infomcr_tf.characterization import (
        CharacterizeCallback,
        MinimumReport,
        fisher_information_approximation,
        gamma_from_gamma_hat,
        generalization_bound,
    )

    # In the cycle of imports mypy would take the name in the package for the module.
    from infomcr_tf.characterization.characterize import characterize
    from infomcr_tf.comparison.compared import compare
    from infomcr_tf.regularizer import (
        BetaSchedule,
        FisherRegularizedModel,
        SharpnessAwareModel,
        check_alpha,
        fisher_penalty,
    )

__version__ = "0.1.0"

__all__ = [
    "BetaSchedule",
    "CharacterizeCallback",
    "FisherRegularizedModel",
    "MinimumReport",
    "SharpnessAwareModel",
    "characterize",
    "check_alpha",
    "compare",
    "data",
    "fisher_information_approximation",
    "fisher_penalty",
    "gamma_from_gamma_hat",
    "generalization_bound",
    "models",
]

_NAMES = {
    "comparison": ("compare",),
    "characterization": (
        "CharacterizeCallback",
        "MinimumReport",
        "characterize",
        "fisher_information_approximation",
        "gamma_from_gamma_hat",
        "generalization_bound",
    ),
    "regularizer": (
        "BetaSchedule",
        "FisherRegularizedModel",
        "SharpnessAwareModel",
        "check_alpha",
        "fisher_penalty",
    ),
}
__getattr__ = lazy_names(
    __name__,
    {name: f"{__name__}.{package}:{name}" for package, names in _NAMES.items() for name in names}
    | {package: f"{__name__}.{package}" for package in ("data", "models")},
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
