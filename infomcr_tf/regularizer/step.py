"""One training step: the clean gradient, and the penalty's added to it."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from infomcr_tf.normalization_kernels import normalization_kernels
from infomcr_tf.regularizer.functional_loss import (
    FunctionalLoss,
    add,
    dense_gradients,
    flat_outputs,
    times,
)
from infomcr_tf.regularizer.graph_checks import (
    NonFiniteLossError,
    NonFinitePenaltyError,
    check_in_graph,
)
from infomcr_tf.regularizer.penalty import PenaltyMeans, Perturbation, mean_over_sub_batches
from infomcr_tf.regularizer.sub_batches import batch_length, partition, roll, slice_batch


class Step(NamedTuple):
    """What a step finds before it changes the weights."""

    loss: tf.Tensor  # as Keras computes it: with `model.losses`, divided by the replicas
    y_pred: Any
    gradients: list[tf.Tensor]  # of this replica: Keras sums them over the replicas
    penalty: tf.Tensor  # R_alpha, or 0 where it was not computed
    squared_norm: tf.Tensor  # mean ||g_i||^2, or 0


def fused_train_step(model: keras.Model, data: Any) -> dict[str, tf.Tensor]:
    """The step of `keras.Model`, its numbers up to rounding, by `normalization_kernels`.

    Args:
        model: Compiled, not necessarily a `FisherRegularizedModel`.
        data: What `keras.Model.train_step` takes.

    Returns:
        The logs.
    """
    with normalization_kernels(model):
        return keras.Model.train_step(model, data)


class StepFinder:
    """Finds the gradients of Eq. 7 for the batches of one compiled model.

    Args:
        model: The wrapped model, built.
        perturbation: How the weights are moved.
        variables: Those that `Step.gradients` belong to.
        optimizer: Scales the losses and counts the steps.
        data_loss: The compiled loss, (y, y_pred, sample_weight) -> L; without `model.losses`.
        clean_loss: (x, y, sample_weight) -> the loss as Keras computes it, and y_pred.
        num_sub_batches: M / R, the sub-batches of one replica.
        fraction: Share of them to compute the penalty from.
        penalty_weight: The scalar that multiplies R_alpha.
        active: True, or a boolean scalar tensor; false leaves the plain step, at its cost.
        fused: Whether the clean pass uses `normalization_kernels`.
    """

    def __init__(
        self,
        model: keras.Model,
        perturbation: Perturbation,
        *,
        variables: list[keras.Variable],
        optimizer: keras.Optimizer,
        data_loss: Callable[..., tf.Tensor],
        clean_loss: Callable[..., tuple[tf.Tensor, Any]],
        num_sub_batches: int,
        fraction: float,
        penalty_weight: tf.Tensor,
        active: bool | tf.Tensor,
        fused: bool,
        offsets: keras.random.SeedGenerator | None,
    ) -> None:
        self.model = model
        self.perturbation = perturbation
        self.variables = variables
        self.optimizer = optimizer
        self.data_loss = data_loss
        self.clean_loss = clean_loss
        self.num_sub_batches = num_sub_batches
        self.fraction = fraction
        self.penalty_weight = penalty_weight
        self.active = active
        self.kernels = normalization_kernels if fused else nullcontext
        self.offsets = offsets
        self.loss = FunctionalLoss(model, data_loss)
        self.replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._reached: set[int] = set()

    def for_optimizer(self, step: Step) -> list[tuple[tf.Tensor | None, keras.Variable]]:
        """Gradients with their variables; `None`, as in Keras, where the loss does not reach."""
        return [
            (g if id(v) in self._reached else None, v)
            for g, v in zip(step.gradients, self.variables, strict=True)
        ]

    def plain(self, batch: tuple[Any, Any, Any]) -> Step:
        """The step of `keras.Model`."""
        with self.kernels(self.model), tf.GradientTape() as tape:
            loss, y_pred = self.clean_loss(*batch)
            scaled = self.optimizer.scale_loss(loss)
        zero = tf.zeros([], loss.dtype)
        return Step(loss, y_pred, self._gradients(tape, scaled), zero, zero)

    def _gradients(self, tape: tf.GradientTape, loss: tf.Tensor) -> list[tf.Tensor]:
        gradients = tape.gradient(loss, self.variables)
        self._reached |= {
            id(v) for g, v in zip(gradients, self.variables, strict=True) if g is not None
        }
        return dense_gradients(gradients, self.variables)

    def batch(self, batch: tuple[Any, Any, Any]) -> Step:
        """L(B, w) from a pass over the whole batch, R_alpha from the sub-batches: 3 gradients."""
        clean = self.plain(batch)

        def regularized() -> Step:
            cut = batch if self.offsets is None else roll(batch, self._offset(batch))
            count, size = self._used(batch)
            means = self._means(cut, count=count, size=size)
            with tf.control_dependencies(self._check_finite(clean.loss, means)):
                self._advance_seeds(means)
                extra = self._scaled(means.gradient)
            return clean._replace(
                y_pred=(),
                gradients=[g + r for g, r in zip(clean.gradients, extra, strict=True)],
                **self._logged(means, clean.loss.dtype),
            )

        step = self._if_active(regularized, lambda: clean._replace(y_pred=()))
        return step._replace(y_pred=clean.y_pred)

    def sub_batches(self, batch: tuple[Any, Any, Any]) -> Step:
        """L(B, w) as the mean of the L(B_i, w), whose gradients are the g_i: 2 gradients."""

        def plain() -> Step:
            step = self.plain(batch)
            return step._replace(y_pred=flat_outputs(step.y_pred))

        step = self._if_active(lambda: self._regularized_sub_batches(batch), plain)
        return step._replace(y_pred=self.loss.pack(step.y_pred))

    def _if_active(self, regularized: Callable[[], Step], plain: Callable[[], Step]) -> Step:
        return regularized() if self.active is True else tf.cond(self.active, regularized, plain)

    def _regularized_sub_batches(self, batch: tuple[Any, Any, Any]) -> Step:
        _, y, sample_weight = batch
        offset = None if self.offsets is None else self._offset(batch)
        cut = batch if offset is None else roll(batch, offset)
        count, size = self._used(batch)
        used = count * size
        means = self._means(
            cut, count=count, size=size, data_weight=(used, batch_length(batch[0])), collect=True
        )
        means = self._add_rest(means, cut, used)
        outputs = means.outputs if offset is None else roll(means.outputs, -offset)
        loss, gradients = self._add_weight_regularization(
            self.data_loss(y, self.loss.pack(outputs), sample_weight),
            self._scaled(means.gradient),
        )
        with tf.control_dependencies(self._check_finite(loss, means)):
            self._advance_seeds(means)
            for variable, change in zip(self.loss.assigned, means.state, strict=True):
                (variable.assign_add if change.dtype.is_floating else variable.assign)(change)
            gradients = [tf.identity(g) for g in gradients]
        return Step(loss, outputs, gradients, **self._logged(means, loss.dtype))

    def _used(self, batch: tuple[Any, Any, Any]) -> tuple[Any, Any]:
        """How many sub-batches the penalty is computed from, and their size."""
        parts = partition(batch[0], self.num_sub_batches)
        return parts.share(self.fraction), parts.size

    def _means(self, batch: Any, **options: Any) -> PenaltyMeans:
        means = mean_over_sub_batches(
            self.loss, batch, self.perturbation, penalty_weight=self.penalty_weight, **options
        )
        self._reached |= {
            id(v) for v, reached in zip(self.variables, self.loss.reached, strict=True) if reached
        }
        return means

    def _check_finite(self, loss: tf.Tensor, means: PenaltyMeans) -> list[tf.Operation]:
        """Checks first the loss, then the penalty; returns the control inputs of the update."""
        where = (" is not finite at step ", tf.convert_to_tensor(self.optimizer.iterations))
        finite = tf.reduce_all(tf.math.is_finite(loss)) & tf.math.is_finite(means.loss)
        check = check_in_graph(
            finite,
            *("The loss", *where, ": on average ", means.loss, " over the sub-batches. "),
            "Lower the learning rate, or check the data for NaN.",
            error=NonFiniteLossError,
        )
        with tf.control_dependencies(check):
            finite = tf.math.is_finite(means.penalty) & tf.math.is_finite(means.squared_norm)
        return check + check_in_graph(
            finite,
            *("The penalty", *where, ": R_alpha = ", means.penalty),
            *(", mean squared gradient norm = ", means.squared_norm),
            ". Lower the learning rate or `beta`, or start the penalty later "
            "(`BetaSchedule('after-first-drop')`).",
            error=NonFinitePenaltyError,
        )

    def _add_rest(self, means: PenaltyMeans, batch: Any, used: Any) -> PenaltyMeans:
        """Adds the clean loss of the examples that no sub-batch of the penalty holds."""
        total = batch_length(batch[0])
        rest = total - used

        def with_rest() -> PenaltyMeans:
            weights, _ = self.loss.read()
            _, g, evaluation = self.loss.value_and_gradient(
                weights, means.seeds, *slice_batch(batch, used, rest)
            )
            return means._replace(
                gradient=add(means.gradient, g, rest, total),
                seeds=evaluation.seeds,
                state=add(means.state, evaluation.state, rest, total),
                outputs=[
                    tf.concat(parts, axis=0)
                    for parts in zip(means.outputs, evaluation.outputs, strict=True)
                ],
            )

        if isinstance(rest, int):
            return with_rest() if rest else means
        return tf.cond(rest > 0, with_rest, lambda: means)

    def _scaled(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Scales gradients of local means as the optimizer expects them."""
        scale = self.optimizer.scale_loss(tf.constant(1.0 / self.replicas))
        return [times(scale, g) for g in gradients]

    def _add_weight_regularization(
        self, loss: tf.Tensor, gradients: list[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        regularized = [v for v in self.variables if v.regularizer is not None]
        if not regularized:
            return loss, gradients
        with tf.GradientTape() as tape:
            terms = [tf.cast(v.regularizer(v), loss.dtype) for v in regularized]
            added = tf.add_n(terms) / self.replicas
            scaled = self.optimizer.scale_loss(added)
        return loss + added, add(gradients, self._gradients(tape, scaled))

    def _offset(self, batch: tuple[Any, Any, Any]) -> tf.Tensor:
        """Where to begin cutting, drawn so that every example has the same chance to be used."""
        return keras.random.randint((), 0, batch_length(batch[0]), seed=self.offsets)

    @staticmethod
    def _logged(means: PenaltyMeans, dtype: tf.DType) -> dict[str, tf.Tensor]:
        return {
            "penalty": tf.cast(means.penalty, dtype),
            "squared_norm": tf.cast(means.squared_norm, dtype),
        }

    def _advance_seeds(self, means: PenaltyMeans) -> None:
        for seed, value in zip(self.loss.seeds, means.seeds, strict=True):
            seed.assign(value)
