"""Measure how well a minimum of a neural network generalises, and train networks into better ones.

TensorFlow/Keras implementation of Jia & Su, "Information-Theoretic Local Minima Characterization
and Regularization" (ICML 2020).

- Training: `FisherRegularizedModel`, `BetaSchedule`, `fisher_penalty`, `check_alpha`; to compare
  with, `SharpnessAwareModel`.
- Measuring: `characterize`, `MinimumReport`, `CharacterizeCallback`.
- Theory: `generalization_bound`, `fisher_information_approximation`, `gamma_from_gamma_hat`.
- The paper's networks and data: `models`, `data`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infomcr_tf import data, models
    from infomcr_tf.characterization import (
        CharacterizeCallback,
        MinimumReport,
        characterize,
        fisher_information_approximation,
        gamma_from_gamma_hat,
        generalization_bound,
    )
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
    "data",
    "fisher_information_approximation",
    "fisher_penalty",
    "gamma_from_gamma_hat",
    "generalization_bound",
    "models",
]

_PACKAGES = {
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


def __getattr__(name: str) -> Any:
    # Importing TensorFlow takes seconds and prints; a name is imported when it is first used.
    if name in ("data", "models"):
        return importlib.import_module(f"{__name__}.{name}")
    for package, names in _PACKAGES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{package}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
