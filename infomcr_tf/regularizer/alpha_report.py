"""Is alpha right for these weights: above the rounding of float32, below the loss's curvature?"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.arguments import check_argument
from infomcr_tf.precision import float32_precision
from infomcr_tf.regularizer.functional_loss import FunctionalLoss
from infomcr_tf.regularizer.penalty import (
    Perturbation,
    loss_object,
    squared_norm,
    sub_batch_penalty,
)
from infomcr_tf.regularizer.requirements import check_layers
from infomcr_tf.regularizer.sub_batches import as_tensors, check_enough, partition, slice_batch

# Below this, a tenth and more of the penalty's gradient is rounding.
MIN_SIGNAL = 10.0
# Beyond this, the penalty is off its first order by half.
MAX_CURVATURE = 0.5


@dataclasses.dataclass(frozen=True)
class AlphaReport:
    """How well the finite difference measures the penalty, on one batch.

    Attributes:
        alpha: The step.
        signal_to_rounding: ||g_i - grad L(B_i, w - alpha g_i)|| over the change of g_i when every
            weight moves up or down by its last bit; both root mean squares over i.
        linearity: R_alpha / (alpha mean ||g_i||^2): 1 to first order. Rounding makes it noisy
            where `signal_to_rounding` is small.
    """

    alpha: float
    signal_to_rounding: float
    linearity: float

    @property
    def too_small(self) -> bool:
        """Whether rounding drowns the finite difference."""
        return self.signal_to_rounding < MIN_SIGNAL

    @property
    def too_large(self) -> bool:
        """Whether the loss bends within the step."""
        return not self.too_small and not abs(self.linearity - 1) <= MAX_CURVATURE


def check_alpha(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    loss: str | keras.losses.Loss | Callable,
    alpha: float = 1e-4,
    num_sub_batches: int = 8,
    sample_weight: Any = None,
    seed: int = 0,
) -> AlphaReport:
    """Measures whether `alpha` suits the weights at hand; warns where it does not.

    The finite difference of Algorithm 1 subtracts two nearly equal gradients, so alpha must be
    large enough for their difference to stand out of float32's rounding, and small enough for the
    loss to be near its tangent over the step. Measure at the weights where the penalty will act:
    g_i shrinks by orders of magnitude during training.

    Args:
        model: A `keras.Model`.
        x: Inputs of one batch.
        y: Targets.
        loss: As for `fisher_penalty`.
        alpha: The step to examine.
        num_sub_batches: M.
        sample_weight: Weights of the examples, or `None`.
        seed: Seed of the weights' random last bits.

    Returns:
        An `AlphaReport`. A `UserWarning` says which way to change an unsuitable alpha.

    Raises:
        ValueError: As `fisher_penalty` does.
    """
    num_sub_batches = check_argument("num_sub_batches", num_sub_batches)
    perturbation = Perturbation(alpha)
    batch = as_tensors((x, y, sample_weight))
    if not model.built:
        model(batch[0])
    check_layers(model, perturbation.estimator)
    functional = FunctionalLoss(model, loss_object(loss, model))
    check_enough(batch[0], num_sub_batches)
    size = partition(batch[0], num_sub_batches).size

    @tf.function(autograph=False)
    def measure(sub_batch: Any, seed: tf.Tensor) -> list[tf.Tensor]:
        weights, seeds = functional.read()
        one = sub_batch_penalty(functional, weights, perturbation, seeds, *sub_batch)
        rounded = [_move_last_bit(w, tf.add(seed, [0, i])) for i, w in enumerate(weights)]
        _, g, _ = functional.value_and_gradient(rounded, seeds, *sub_batch)
        rounding = squared_norm([a - b for a, b in zip(g, one.gradient, strict=True)])
        return [squared_norm(one.penalty_gradient), rounding, one.penalty, one.squared_norm]

    with float32_precision():
        signal, rounding, penalty, norm = np.sum(
            [
                measure(slice_batch(batch, i * size, size), tf.constant([seed, 1000 * i]))
                for i in range(num_sub_batches)
            ],
            axis=0,
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        report = AlphaReport(
            alpha, float(np.sqrt(signal / rounding)), float(penalty / (alpha * norm))
        )
    _warn(report)
    return report


def _move_last_bit(weight: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Moves every entry up or down by about its last bit, at random."""
    bit = tf.abs(weight) * np.finfo(weight.dtype.as_numpy_dtype).eps
    up = tf.random.stateless_uniform(weight.shape, seed) < 0.5
    return tf.where(up, weight + bit, weight - bit)


def _warn(report: AlphaReport) -> None:
    if report.too_small:
        warnings.warn(
            f"`alpha` is too small for these weights: the finite difference is only "
            f"{report.signal_to_rounding:.2g} times its rounding. Raise `alpha` (and lower `beta` "
            "by the same factor), or use `estimator='hessian_vector'`. "
            f"Received: alpha={report.alpha:g}",
            stacklevel=3,
        )
    elif report.too_large:
        warnings.warn(
            f"`alpha` is too large for these weights: the penalty is {report.linearity:.2g} times "
            "its first order, alpha mean ||g_i||^2. Lower `alpha` (and raise `beta` by the same "
            f"factor). Received: alpha={report.alpha:g}",
            stacklevel=3,
        )
