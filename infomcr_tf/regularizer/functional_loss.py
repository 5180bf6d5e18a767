"""The data loss as a function of the weights, without side effects."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from infomcr_tf.normalization_kernels import check_second_derivatives, normalization_kernels
from infomcr_tf.regularizer.data_term import synchronized_layers


class Evaluation(NamedTuple):
    """What one evaluation of the loss gives back besides its value."""

    y_pred: Any
    seeds: list[tf.Tensor]  # advanced
    state: list[tf.Tensor]  # the change of every float variable; the new value of any other


class FunctionalLoss:
    """`L(B, w)` evaluated at weights given as tensors, as the training step sees it.

    The model runs with `training=True`. Nothing outside changes: BatchNorm's moving averages,
    seeds, metrics and counters are handed back as tensors instead of being assigned, so the same
    batch can be evaluated at `w` and at `w - alpha g_i` with the same Dropout masks.

    Args:
        model: A built `keras.Model`.
        data_loss: A Keras loss, `(y, y_pred, sample_weight) -> scalar`, without `model.losses`.
            Keras divides it by the number of replicas; here that is undone: `L` is the local mean.

    Attributes:
        weights: The model's trainable variables.
        seeds: The states of its random generators; one evaluation advances them by one.
        state: All its other variables that a forward pass may update.
    """

    def __init__(self, model: keras.Model, data_loss: Callable[..., tf.Tensor]) -> None:
        self.model = model
        self.data_loss = data_loss
        self.weights = model.trainable_variables
        fixed = [v for v in model.non_trainable_variables if not _is_metric(v, model)]
        self.seeds = [v for v in fixed if v.name == "seed_generator_state"]
        self.state = [v for v in fixed if v.name != "seed_generator_state"]
        # A step evaluates the loss at w and at w - alpha g_i: one trace serves both.
        self._traced = tf.function(self._value_and_gradient, autograph=False)

    def __call__(
        self, weights: list[tf.Tensor], seeds: list[tf.Tensor], x: Any, y: Any, sample_weight: Any
    ) -> tuple[tf.Tensor, Evaluation]:
        """Evaluates the loss.

        Args:
            weights: Tensors like `self.weights`.
            seeds: Tensors like `self.seeds`.
            x: Inputs.
            y: Targets.
            sample_weight: Sample weights, or `None`.

        Returns:
            The scalar loss, and the predictions with the advanced seeds and updated state.
        """
        mapping = [*zip(self.weights, weights, strict=True), *zip(self.seeds, seeds, strict=True)]
        own, kernels = _own_statistics(self.model), normalization_kernels(self.model)
        with kernels, own, keras.StatelessScope(mapping, True) as scope:
            y_pred = self.model(x, training=True)
            loss = self.data_loss(y, y_pred, sample_weight)
            loss *= tf.cast(tf.distribute.get_strategy().num_replicas_in_sync, loss.dtype)
        self.has_added_losses = bool(scope.losses)

        def change(variable: keras.Variable) -> tf.Tensor:
            value = scope.get_current_value(variable)
            if not variable.value.dtype.is_floating:
                return tf.convert_to_tensor(variable.value if value is None else value)
            return (
                tf.zeros(variable.shape, variable.dtype)
                if value is None
                else value - variable.value
            )

        return loss, Evaluation(
            y_pred,
            [tf.convert_to_tensor(scope.get_current_value(v)) for v in self.seeds],
            [change(v) for v in self.state],
        )

    def value_and_gradient(
        self, weights: list[tf.Tensor], *args: Any
    ) -> tuple[tf.Tensor, list[tf.Tensor], Evaluation]:
        """Evaluates the loss and its gradient; arguments as for `__call__`."""
        evaluate = self._value_and_gradient if tf.executing_eagerly() else self._traced
        return evaluate(weights, *args)

    def check_second_derivatives(self, weights: list[tf.Tensor], *args: Any) -> None:
        """Raises `ValueError` where TensorFlow gets them wrong; arguments as for `__call__`."""
        check_second_derivatives(self._traced.get_concrete_function(weights, *args).graph)

    def _value_and_gradient(
        self, weights: list[tf.Tensor], *args: Any
    ) -> tuple[tf.Tensor, list[tf.Tensor], Evaluation]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss, evaluation = self(weights, *args)
        return loss, dense_gradient(tape, loss, weights), evaluation

    def read(self) -> tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor]]:
        """Returns the current weights, seeds and state as tensors."""
        return tuple(
            [tf.convert_to_tensor(v.value) for v in variables]
            for variables in (self.weights, self.seeds, self.state)
        )

    def output_spec(self, x: Any) -> Any:
        """Returns the shape and dtype of the model's outputs for inputs like `x`."""
        inputs = tf.nest.map_structure(
            lambda leaf: keras.KerasTensor(leaf.shape, leaf.dtype.name), x
        )
        return self.model.compute_output_spec(inputs)


def weighted(weight: float | tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    """`weight * tensor` in the tensor's dtype."""
    return (weight if isinstance(weight, float) else tf.cast(weight, tensor.dtype)) * tensor


def add(
    total: list[tf.Tensor], tensors: list[tf.Tensor], weight: float | tf.Tensor | None = None
) -> list[tf.Tensor]:
    """`total + weight * tensors` (no weight: 1); a counter (any integer) takes the new value."""
    return [
        (a + (b if weight is None else weighted(weight, b))) if b.dtype.is_floating else b
        for a, b in zip(total, tensors, strict=True)
    ]


def dense_gradient(
    tape: tf.GradientTape, target: tf.Tensor, sources: list[tf.Tensor]
) -> list[tf.Tensor]:
    """Gradient as dense tensors: zeros where unconnected, embeddings' slices summed."""
    gradients = tape.gradient(target, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(g) for g in gradients]


def _is_metric(variable: keras.Variable, model: keras.Model) -> bool:
    return any(variable is v for v in model.metrics_variables)


@contextmanager
def _own_statistics(model: keras.Model) -> Iterator[None]:
    """Keeps synchronized BatchNorm layers from exchanging a sub-batch's statistics."""
    layers = synchronized_layers(model)
    for layer in layers:
        layer.synchronized = False
    try:
        yield
    finally:
        for layer in layers:
            layer.synchronized = True
