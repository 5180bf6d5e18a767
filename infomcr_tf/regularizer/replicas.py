"""State that the replicas of a distribution strategy do not share by themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from infomcr_tf.regularizer.data_term import MEAN_REDUCTIONS, synchronized_layers


def check_divisible(num_sub_batches: int, replicas: int) -> None:
    """Raises `ValueError` unless every replica can have as many of the M sub-batches."""
    if num_sub_batches % replicas:
        raise ValueError(
            "`num_sub_batches` must be divisible by the number of replicas. "
            f"Received: num_sub_batches={num_sub_batches}, replicas={replicas}"
        )


def check_strategy(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimizer: keras.Optimizer,
    loss: Any,
    jit_compile: bool,
) -> None:
    """Refuses what cannot be trained, or would be trained wrongly, under a distribution strategy.

    Args:
        strategy: The strategy in whose scope the model was made.
        model: The `FisherRegularizedModel`.
        optimizer: The optimizer to compile with.
        loss: The loss to compile with, possibly nested.
        jit_compile: Whether to compile with XLA.

    Raises:
        ValueError: With the name of the argument to change.
    """
    replicas = strategy.num_replicas_in_sync
    check_divisible(model.num_sub_batches, replicas)
    if jit_compile:
        raise ValueError(
            "`jit_compile` must be False under a distribution strategy. Received: jit_compile=True"
        )
    if optimizer.gradient_accumulation_steps:
        raise ValueError(
            "`gradient_accumulation_steps` is not supported under a distribution strategy; use a "
            "larger batch. Received: gradient_accumulation_steps="
            f"{optimizer.gradient_accumulation_steps}"
        )
    if replicas == 1:
        return
    if model.data_term == "sub_batches" and synchronized_layers(model):
        raise ValueError(
            "`data_term` must be 'batch' or 'auto' with synchronized BatchNormalization layers. "
            "Received: data_term='sub_batches'"
        )
    reductions = [getattr(one, "reduction", "mean") for one in keras.tree.flatten(loss)]
    if any(reduction not in MEAN_REDUCTIONS for reduction in reductions):
        raise ValueError(
            "`loss` must be averaged over the batch (reduction='sum_over_batch_size') where there "
            f"are several replicas. Received: reductions={reductions}"
        )


@contextmanager
def per_example_values(data_loss: Any) -> Iterator[None]:
    """Refuses, while inside, losses that reduce the batch to a scalar themselves.

    Keras divides by the number of replicas where it takes the mean, not such a scalar, and the
    gradient would come out as many times too large.

    Args:
        data_loss: A `keras.losses.Loss`, or what `compile` makes of one or several.
    """
    compiled = getattr(data_loss, "_flat_losses", None)
    losses = [data_loss] if compiled is None else [one.loss for one in compiled]

    def checked(loss: keras.losses.Loss) -> Any:
        def call(y_true: Any, y_pred: Any) -> tf.Tensor:
            values = type(loss).call(loss, y_true, y_pred)
            if values.shape.rank == 0:
                raise ValueError(
                    "`loss` must return one value an example, not a scalar, where there are "
                    "several replicas: Keras divides only what it averages itself by their "
                    f"number. Received: loss={loss.name!r}"
                )
            return values

        return call

    for loss in losses:
        loss.call = checked(loss)
    try:
        yield
    finally:
        for loss in losses:
            vars(loss).pop("call", None)  # another replica's thread may have restored them already


def read(variable: keras.Variable | tf.Tensor) -> float:
    """A scalar's value; under a distribution strategy a Keras variable has no `float`."""
    return float(tf.convert_to_tensor(variable))


class AverageReplicas(keras.callbacks.Callback):
    """Averages moving statistics over the replicas before they are used for testing or saved.

    BatchNorm's moving averages differ per replica, each having seen its own part of every batch,
    and saving would keep the first replica's alone.
    """

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Averages before validation."""
        self._average()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Averages before other callbacks save the model."""
        self._average()

    def _average(self) -> None:
        strategy = self.model.distribute_strategy
        if strategy.num_replicas_in_sync == 1:
            return
        weights = [
            weight
            for weight in self.model.non_trainable_weights
            if keras.backend.is_float_dtype(weight.dtype)
        ]

        @tf.function
        def means() -> list[tf.Tensor]:
            copies = strategy.run(lambda: [tf.identity(weight.value) for weight in weights])
            return [strategy.reduce(tf.distribute.ReduceOp.MEAN, c, axis=None) for c in copies]

        for weight, mean in zip(weights, means(), strict=True):
            weight.assign(mean)
