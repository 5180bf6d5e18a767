"""One training step: the clean gradient, and the penalty's added to it."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from infomcr_tf.normalization_kernels import normalization_kernels
from infomcr_tf.regularizer.batches import batch_size, roll, sub_batch_size, take
from infomcr_tf.regularizer.functional_loss import FunctionalLoss, add, dense_gradient
from infomcr_tf.regularizer.graph_checks import check_in_graph
from infomcr_tf.regularizer.penalty import PenaltyMeans, Perturbation, mean_over_sub_batches


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
        trainer: The wrapper, compiled; its `compute_loss` gives the clean loss.
        model: The wrapped model, built.
        perturbation: How the weights are moved.
        num_sub_batches: M / R, the sub-batches of one replica.
        num_used: How many of them to compute the penalty from.
        penalty_weight: The scalar that multiplies R_alpha.
        active: True, or a boolean scalar tensor; false leaves the plain step, at its cost.
        fused: Whether the clean pass uses `normalization_kernels`.
    """

    def __init__(
        self,
        trainer: keras.Model,
        model: keras.Model,
        perturbation: Perturbation,
        *,
        num_sub_batches: int,
        num_used: int,
        penalty_weight: tf.Tensor,
        active: bool | tf.Tensor,
        fused: bool,
        offsets: keras.random.SeedGenerator | None,
    ) -> None:
        self.trainer = trainer
        self.model = model
        self.perturbation = perturbation
        self.num_sub_batches = num_sub_batches
        self.num_used = num_used
        self.penalty_weight = penalty_weight
        self.active = active
        self.kernels = normalization_kernels if fused else nullcontext
        self.offsets = offsets
        self.loss = FunctionalLoss(model, trainer._compile_loss)
        self.replicas = tf.distribute.get_strategy().num_replicas_in_sync

    def plain(self, batch: tuple[Any, Any, Any]) -> Step:
        """The step of `keras.Model`."""
        x, y, sample_weight = batch
        with self.kernels(self.model), tf.GradientTape() as tape:
            y_pred = self.trainer(x, training=True)
            loss = self.trainer.compute_loss(
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
            )
            scaled = self.trainer.optimizer.scale_loss(loss)
        gradients = dense_gradient(tape, scaled, self.trainer.trainable_variables)
        zero = tf.zeros([], loss.dtype)
        return Step(loss, y_pred, gradients, zero, zero)

    def batch(self, batch: tuple[Any, Any, Any]) -> Step:
        """L(B, w) from a pass over the whole batch, R_alpha from the sub-batches: 3 gradients."""
        clean = self.plain(batch)

        def regularized() -> Step:
            cut = batch if self.offsets is None else roll(batch, self._offset(batch))
            means = self._means(cut)
            self._advance_seeds(means)
            gradients = [
                g + r for g, r in zip(clean.gradients, self._for_optimizer(means), strict=True)
            ]
            return Step(clean.loss, clean.y_pred, gradients, *self._logged(means, clean.loss.dtype))

        return self._if_active(regularized, lambda: clean)

    def sub_batches(self, batch: tuple[Any, Any, Any]) -> Step:
        """L(B, w) as the mean of the L(B_i, w), whose gradients are the g_i: 2 gradients."""
        return self._if_active(
            lambda: self._regularized_sub_batches(batch), lambda: self.plain(batch)
        )

    def _if_active(self, regularized: Callable[[], Step], plain: Callable[[], Step]) -> Step:
        return regularized() if self.active is True else tf.cond(self.active, regularized, plain)

    def _regularized_sub_batches(self, batch: tuple[Any, Any, Any]) -> Step:
        x, y, sample_weight = batch
        offset = None if self.offsets is None else self._offset(batch)
        cut = batch if offset is None else roll(batch, offset)
        used = self.num_used * sub_batch_size(x, self.num_sub_batches)
        means = self._means(cut, data_weight=used / batch_size(x), collect=True)
        means = self._add_rest(means, cut, used)
        if self.loss.has_added_losses:
            raise ValueError(
                "`data_term` must be 'batch' or 'auto' with `add_loss` or activity regularizers, "
                "which belong to the whole batch. "
                "Received: data_term='sub_batches'"
            )
        self._advance_seeds(means)
        for variable, change in zip(self.loss.state, means.state, strict=True):
            if change.dtype.is_floating:
                variable.assign_add(change)
            else:
                variable.assign(change)
        y_pred = means.y_pred if offset is None else roll(means.y_pred, -offset)
        loss, gradients = self._add_weight_regularization(
            self.trainer._compile_loss(y, y_pred, sample_weight), self._for_optimizer(means)
        )
        return Step(loss, y_pred, gradients, *self._logged(means, loss.dtype))

    def _means(self, batch: Any, **options: Any) -> PenaltyMeans:
        means = mean_over_sub_batches(
            self.loss,
            batch,
            self.perturbation,
            count=self.num_used,
            size=sub_batch_size(batch[0], self.num_sub_batches),
            penalty_weight=self.penalty_weight,
            **options,
        )
        finite = tf.math.is_finite(means.penalty) & tf.math.is_finite(means.squared_norm)
        check = check_in_graph(
            finite,
            "The penalty is not finite at step ",
            tf.convert_to_tensor(self.trainer.optimizer.iterations),
            ": R_alpha = ",
            means.penalty,
            ", mean squared gradient norm = ",
            means.squared_norm,
            ". Lower the learning rate or `beta`, start the penalty later "
            "(`BetaSchedule('after-first-drop')`), or check the data for NaN.",
        )
        with tf.control_dependencies(check):
            return means._replace(gradient=[tf.identity(g) for g in means.gradient])

    def _add_rest(self, means: PenaltyMeans, batch: Any, used: Any) -> PenaltyMeans:
        """Adds the clean loss of the examples that no sub-batch of the penalty holds."""
        total = batch_size(batch[0])
        rest = total - used

        def with_rest() -> PenaltyMeans:
            weights, _, _ = self.loss.read()
            _, g, evaluation = self.loss.value_and_gradient(
                weights, means.seeds, *take(batch, used, rest)
            )
            share = rest / total
            return means._replace(
                gradient=add(means.gradient, g, share),
                seeds=evaluation.seeds,
                state=add(means.state, evaluation.state, share),
                y_pred=tf.nest.map_structure(
                    lambda *parts: tf.concat(parts, axis=0), means.y_pred, evaluation.y_pred
                ),
            )

        if isinstance(rest, int):
            return with_rest() if rest else means
        return tf.cond(rest > 0, with_rest, lambda: means)

    def _for_optimizer(self, means: PenaltyMeans) -> list[tf.Tensor]:
        """Scales local means as the optimizer expects its gradients."""
        scale = self.trainer.optimizer.scale_loss(tf.constant(1.0 / self.replicas))
        return [tf.cast(scale, g.dtype) * g for g in means.gradient]

    def _add_weight_regularization(
        self, loss: tf.Tensor, gradients: list[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        variables = [v for v in self.trainer.trainable_variables if v.regularizer is not None]
        if not variables:
            return loss, gradients
        with tf.GradientTape() as tape:
            terms = [tf.cast(v.regularizer(v), loss.dtype) for v in variables]
            added = tf.add_n(terms) / self.replicas
            scaled = self.trainer.optimizer.scale_loss(added)
        extra = dense_gradient(tape, scaled, self.trainer.trainable_variables)
        return loss + added, [g + e for g, e in zip(gradients, extra, strict=True)]

    def _offset(self, batch: tuple[Any, Any, Any]) -> tf.Tensor:
        """Where to begin cutting, drawn so that every example has the same chance to be used."""
        return keras.random.randint((), 0, batch_size(batch[0]), seed=self.offsets)

    @staticmethod
    def _logged(means: PenaltyMeans, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(means.penalty, dtype), tf.cast(means.squared_norm, dtype)

    def _advance_seeds(self, means: PenaltyMeans) -> None:
        for seed, value in zip(self.loss.seeds, means.seeds, strict=True):
            seed.assign(value)
