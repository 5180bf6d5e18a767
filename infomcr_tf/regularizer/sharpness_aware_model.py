"""Baselines to compare with: SAM and the gradient-norm penalty."""

import dataclasses
from typing import Any

import keras

from infomcr_tf.arguments import check_number
from infomcr_tf.regularizer.fisher_regularized_model import FisherRegularizedModel


@keras.saving.register_keras_serializable(package="infomcr_tf")
class SharpnessAwareModel(FisherRegularizedModel):
    r"""Wraps a `keras.Model` to train it with SAM or a gradient-norm penalty.

    With g = grad L(B, w) and g' = grad L(B, w + rho g / ||g||), a step uses g + beta (g' - g):

    - `beta=1` is SAM, g' itself (Foret et al., "Sharpness-aware minimization for efficiently
      improving generalization", ICLR 2021);
    - `beta=lambda/rho` penalises lambda ||grad L(B, w)|| (Zhao et al., "Penalizing gradient norm
      for efficiently improving generalization in deep learning", ICML 2022).

    The penalty on the squared norm, lambda ||grad L(B, w)||^2, is `FisherRegularizedModel` with
    `num_sub_batches=1` and `alpha * beta = lambda`. With more than one sub-batch, each has its own
    g and step (m-sharpness). In the logs, `fisher_penalty` is L(B, w + rho g / ||g||) - L(B, w).

    Args:
        model: The model to train.
        rho: Length of the step to the perturbed weights, above 0.
        beta: Weight of the penalty, as above; a variable, as in `FisherRegularizedModel`.
        num_sub_batches: Parts of the batch with a perturbation of their own.
        **kwargs: As for `FisherRegularizedModel`, without `alpha`, `estimator` and `direction`.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        rho: float = 0.05,
        beta: float = 1.0,
        num_sub_batches: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model,
            alpha=check_number("rho", rho, above=0),
            beta=beta,
            num_sub_batches=num_sub_batches,
            direction="ascent",
            **kwargs,
        )
        self.perturbation = dataclasses.replace(self.perturbation, normalized=True)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the wrapped model serialized."""
        config = super().get_config()
        del config["estimator"], config["direction"]
        return {"rho": config.pop("alpha"), **config}
