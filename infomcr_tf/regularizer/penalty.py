"""The penalty R_alpha of Eq. 7 and its gradient, sub-batch by sub-batch (Algorithm 1)."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from infomcr_tf.arguments import check_argument, check_choice
from infomcr_tf.regularizer.functional_loss import (
    Evaluation,
    FunctionalLoss,
    add,
    dense_gradients,
    times,
)
from infomcr_tf.regularizer.graph_checks import second_derivatives_exist
from infomcr_tf.regularizer.requirements import check_layers, check_outputs
from infomcr_tf.regularizer.sub_batches import as_tensors, check_enough, partition, slice_batch

ESTIMATORS = ("finite_difference", "hessian_vector")
DIRECTIONS = ("descent", "ascent")


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """How the weights are moved to measure the gradient's norm.

    Attributes:
        size: `alpha`: the displacement is `alpha g_i`; with `normalized`, `rho`: it is
            `rho g_i / ||g_i||`.
        estimator: "finite_difference" (Algorithm 1) or "hessian_vector".
        direction: "descent" moves to `w - alpha g_i`, "ascent" to `w + alpha g_i`.
        normalized: Whether the displacement has the same length for every gradient.
    """

    size: float
    estimator: str = "finite_difference"
    direction: str = "descent"
    normalized: bool = False

    def __post_init__(self) -> None:
        # As a plain float, for `get_config`.
        object.__setattr__(self, "size", check_argument("alpha", self.size))
        check_choice("estimator", self.estimator, ESTIMATORS)
        check_choice("direction", self.direction, DIRECTIONS)

    @property
    def sign(self) -> float:
        """-1 for a step down the loss, +1 for a step up."""
        return -1.0 if self.direction == "descent" else 1.0


class SubBatchPenalty(NamedTuple):
    """R_alpha on one sub-batch, with everything found on the way."""

    loss: tf.Tensor  # scalar, L(B_i, w)
    penalty: tf.Tensor  # scalar, R_alpha(w) = L(B_i, w) - L(B_i, w - alpha g_i)
    squared_norm: tf.Tensor  # scalar, ||g_i||^2
    gradient: list[tf.Tensor]  # g_i
    penalty_gradient: list[tf.Tensor]  # gradient of R_alpha, g_i stopped
    evaluation: Evaluation  # of the loss at w


class PenaltyMeans(NamedTuple):
    """Means over the sub-batches."""

    loss: tf.Tensor
    penalty: tf.Tensor
    squared_norm: tf.Tensor
    gradient: list[tf.Tensor]  # of data_weight * L(B_i, w) + penalty_weight * R_alpha
    seeds: list[tf.Tensor]
    state: list[tf.Tensor]  # weighted by data_weight; empty unless collected
    outputs: list[tf.Tensor]  # predictions and masks of all examples; empty unless collected


class _Sums(NamedTuple):
    """Sums over the sub-batches so far; the last seeds; outputs in a `TensorArray`."""

    loss: tf.Tensor
    penalty: tf.Tensor
    squared_norm: tf.Tensor
    gradient: list[tf.Tensor]
    penalty_gradient: list[tf.Tensor]
    seeds: list[tf.Tensor]
    state: list[tf.Tensor]
    outputs: list[tf.TensorArray]


def sub_batch_penalty(
    loss: FunctionalLoss, weights: list[tf.Tensor], perturbation: Perturbation, *args: Any
) -> SubBatchPenalty:
    r"""R_alpha and its gradient on one sub-batch (Eq. 7 and lines 4 to 8 of Algorithm 1).

    With "finite_difference" and "descent", `R = L(B_i, w) - L(B_i, w - alpha g_i)` and, with `g_i`
    under stop_gradient, `grad R = g_i - grad L(B_i, w - alpha g_i)`. "ascent" has
    `R = L(B_i, w + alpha g_i) - L(B_i, w)`. "hessian_vector" is their common limit for small alpha,
    `R = alpha ||g_i||^2` and `grad R = alpha H_i g_i`.

    Args:
        loss: The loss as a function of the weights.
        weights: Where to evaluate.
        perturbation: How the weights are moved.
        *args: The seeds and the sub-batch, passed to `loss`.
    """
    if perturbation.estimator == "hessian_vector":
        return _hessian_vector(loss, weights, perturbation.size, *args)
    value, g, evaluation = loss.value_and_gradient(weights, *args)
    g = [tf.stop_gradient(one) for one in g]  # line 5 of Algorithm 1
    square = squared_norm(g)
    step = tf.constant(perturbation.sign * perturbation.size, square.dtype)
    if perturbation.normalized:
        step = tf.math.divide_no_nan(step, tf.sqrt(square))
    moved = [w + tf.cast(step, w.dtype) * g_w for w, g_w in zip(weights, g, strict=True)]
    moved_value, moved_g, _ = loss.value_and_gradient(moved, *args)
    return SubBatchPenalty(
        loss=value,
        penalty=perturbation.sign * (moved_value - value),
        squared_norm=square,
        gradient=g,
        penalty_gradient=[
            b - a if perturbation.direction == "ascent" else a - b
            for a, b in zip(g, moved_g, strict=True)
        ],
        evaluation=evaluation,
    )


def _hessian_vector(
    loss: FunctionalLoss, weights: list[tf.Tensor], alpha: float, *args: Any
) -> SubBatchPenalty:
    """Alpha H_i g_i by differentiating <g_i, stop_gradient(g_i)>."""
    loss.check_second_derivatives(weights, *args)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        value, g, evaluation = loss.value_and_gradient(weights, *args)
        square = tf.add_n([tf.cast(tf.reduce_sum(a * tf.stop_gradient(a)), g[0].dtype) for a in g])
    with second_derivatives_exist():
        product = dense_gradients(tape.gradient(square, weights), weights)
    return SubBatchPenalty(
        loss=value,
        penalty=alpha * square,
        squared_norm=square,
        gradient=g,
        penalty_gradient=[alpha * h for h in product],
        evaluation=evaluation,
    )


def mean_over_sub_batches(
    loss: FunctionalLoss,
    batch: tuple[Any, Any, Any],
    perturbation: Perturbation,
    *,
    count: Any,
    size: Any,
    penalty_weight: Any,
    data_weight: tuple[Any, Any] = (0, 1),
    collect: bool = False,
) -> PenaltyMeans:
    """Means over the first `count` sub-batches of `size` examples.

    A `tf.while_loop`, so the graph holds one sub-batch whatever their number.

    Args:
        loss: The loss as a function of the weights.
        batch: `(x, y, sample_weight)`.
        perturbation: How the weights are moved.
        count: How many sub-batches to use, an int or a scalar tensor.
        size: Examples in a sub-batch, likewise.
        penalty_weight: Weight of the gradient of `R_alpha`.
        data_weight: Weight of `g_i` in the gradient, and of the state, as a fraction.
        collect: Whether to take the data term from the sub-batches, with predictions and state.

    Raises:
        ValueError: If predictions are to be collected that are not tensors of examples, or the
            model assigns variables that are not Keras' own.
    """
    weights, seeds = loss.read()
    example = loss.example(weights, seeds, *slice_batch(batch, 0, size))
    if collect:
        check_outputs(example.outputs, loss.has_added_losses)
    start = _nothing(weights, seeds, example if collect else None, count)

    # Sums, weighted only after the loop: on small sub-batches every further operation a weight
    # can be felt.
    def body(i: tf.Tensor, sums: _Sums) -> tuple[tf.Tensor, _Sums]:
        one = sub_batch_penalty(
            loss, weights, perturbation, sums.seeds, *slice_batch(batch, i * size, size)
        )
        outputs = one.evaluation.outputs if collect else []
        return i + 1, _Sums(
            loss=sums.loss + tf.cast(one.loss, sums.loss.dtype),
            penalty=sums.penalty + tf.cast(one.penalty, sums.penalty.dtype),
            squared_norm=sums.squared_norm + tf.cast(one.squared_norm, sums.loss.dtype),
            gradient=add(sums.gradient, one.gradient) if collect else [],
            penalty_gradient=add(sums.penalty_gradient, one.penalty_gradient),
            seeds=one.evaluation.seeds,
            state=add(sums.state, one.evaluation.state) if collect else [],
            outputs=[array.write(i, p) for array, p in zip(sums.outputs, outputs, strict=True)],
        )

    _, sums = tf.while_loop(lambda i, _: i < count, body, (tf.constant(0), start))
    gradient = [times(penalty_weight, g, count) for g in sums.penalty_gradient]
    over, under = data_weight[0], data_weight[1] * count
    if collect:
        gradient = add(gradient, sums.gradient, over, under)
    return PenaltyMeans(
        loss=times(1, sums.loss, count),
        penalty=times(1, sums.penalty, count),
        squared_norm=times(1, sums.squared_norm, count),
        gradient=gradient,
        seeds=sums.seeds,
        state=[times(over, s, under) if s.dtype.is_floating else s for s in sums.state],
        outputs=[array.concat() for array in sums.outputs],
    )


def _nothing(
    weights: list[tf.Tensor], seeds: list[tf.Tensor], example: Evaluation | None, count: Any
) -> _Sums:
    """The sums before the first sub-batch; `example` is of one, where they are collected."""
    zero = tf.zeros([], weights[0].dtype)
    state, outputs = (example.state, example.outputs) if example is not None else ([], [])
    return _Sums(
        loss=zero,
        penalty=zero,
        squared_norm=zero,
        gradient=[] if example is None else [tf.zeros_like(w) for w in weights],
        penalty_gradient=[tf.zeros_like(w) for w in weights],
        seeds=seeds,
        state=[tf.zeros(s.shape, s.dtype) for s in state],
        outputs=[tf.TensorArray(o.dtype, count, element_shape=o.shape) for o in outputs],
    )


def squared_norm(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Sum of the squares of all entries, in the first tensor's dtype."""
    return 2.0 * tf.add_n([tf.cast(tf.nn.l2_loss(t), tensors[0].dtype) for t in tensors])


def fisher_penalty(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    loss: str | keras.losses.Loss | Callable,
    alpha: float = 1e-4,
    num_sub_batches: int = 8,
    sample_weight: Any = None,
    estimator: str = "finite_difference",
    direction: str = "descent",
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    r"""The penalty R_alpha of Eq. 7 and its gradient on one batch.

    The batch is cut into M contiguous sub-batches B_i of floor(B / M) examples, and

        R_alpha(w) = 1/M sum_i [L(B_i, w) - L(B_i, w - alpha g_i)],    g_i = grad L(B_i, w),

    which is alpha / M sum_i ||g_i||^2 to first order. Its gradient leaves out g_i's own (g_i under
    stop_gradient), as Algorithm 1 does. L is `loss` alone, without `model.losses`. The model is
    evaluated with `training=True`, so BatchNorm uses each sub-batch's own statistics; nothing in
    the model changes. Works eagerly and inside a `tf.function`.

    Source: Jia and Su, "Information-Theoretic Local Minima Characterization and Regularization",
    ICML 2020, section 6.

    Args:
        model: A `keras.Model`.
        x: Inputs, arrays or tensors, possibly nested; the first axis is the batch [B, ...].
        y: Targets, likewise.
        loss: A Keras loss, its name, or a function `(y, y_pred) -> [B]`. The model's outputs decide
            whether it needs `from_logits=True`.
        alpha: Step of the finite difference, above 0.
        num_sub_batches: M, from 1 to B.
        sample_weight: Weights of the examples [B], or `None`.
        estimator: "finite_difference" (Algorithm 1) or "hessian_vector": the penalty
            `alpha/M sum ||g_i||^2` with gradient `alpha/M sum H_i g_i`, the limit for small alpha
            on a smooth network. On a ReLU network the two are different regularisers: the finite
            difference sees the kinks.
        direction: "descent", or "ascent": `R = 1/M sum [L(B_i, w + alpha g_i) - L(B_i, w)]`.

    Returns:
        `(penalty, gradients)`: a scalar, and a list of tensors like `model.trainable_variables`.

    Raises:
        ValueError: If an argument is out of range, the batch has fewer than M examples, or the
            model cannot be regularised, as for `FisherRegularizedModel.compile`.
    """
    num_sub_batches = check_argument("num_sub_batches", num_sub_batches)
    perturbation = Perturbation(alpha, estimator, direction)
    batch = as_tensors((x, y, sample_weight))
    if not model.built:
        model(batch[0])
    check_layers(model, estimator)
    with tf.control_dependencies(check_enough(batch[0], num_sub_batches)):
        count, size = partition(batch[0], num_sub_batches)
    means = mean_over_sub_batches(
        FunctionalLoss(model, loss_object(loss, model)),
        batch,
        perturbation,
        count=count,
        size=size,
        penalty_weight=1.0,
    )
    return means.penalty, means.gradient


class _MeanLoss(keras.losses.Loss):
    """Mean over the batch of a function's values, as `compile` makes of a name or a function."""

    def __init__(self, function: Callable, dtype: str) -> None:
        super().__init__(name="mean_loss", dtype=dtype)
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        return self.function(y_true, y_pred)


def loss_object(loss: str | keras.losses.Loss | Callable, model: keras.Model) -> keras.losses.Loss:
    """Turns a loss's name or function into the object that `compile` would make of it."""
    loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        return loss
    if not callable(loss):
        raise ValueError(
            "`loss` must be a Keras loss, its name or a function of `(y, y_pred)`. "
            f"Received: loss={loss!r}"
        )
    return _MeanLoss(loss, model.trainable_variables[0].dtype)
