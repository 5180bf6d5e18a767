"""Training on several machines: what `fit` does, which Keras 3 does not do there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from infomcr_tf.regularizer import FisherRegularizedModel


def fit_on_workers(
    model: keras.Model,
    batches: tf.data.Dataset,
    *,
    steps_per_epoch: int,
    initial_epoch: int,
    epochs: int,
    callbacks: keras.callbacks.CallbackList,
) -> None:
    """Trains a compiled model under its strategy; every worker calls it.

    Args:
        model: made and compiled in the strategy's scope.
        batches: this worker's share of every batch, endless.
        steps_per_epoch: batches in an epoch.
        initial_epoch: the first epoch, from 0.
        epochs: the epoch to stop before.
        callbacks: with `model` set.
    """
    strategy = model.distribute_strategy
    workers = strategy.extended._num_workers
    local_replicas = strategy.num_replicas_in_sync // workers
    size = batches.element_spec[0].shape[0] // local_replicas
    iterator = iter(strategy.distribute_datasets_from_function(lambda _: batches.rebatch(size)))
    # Metrics make their variables at the first batch, which cannot be within a replica.
    with strategy.scope():
        model._symbolic_build(data_batch=next(iter(batches.rebatch(size))))
    train_step = _train_step(model)
    callbacks.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        model.reset_metrics()
        callbacks.on_epoch_begin(epoch)
        for step in range(steps_per_epoch):
            callbacks.on_train_batch_begin(step)
            logs = train_step(next(iterator))
            callbacks.on_train_batch_end(step, logs)
        callbacks.on_epoch_end(epoch, {name: float(value) for name, value in logs.items()})
        if model.stop_training:
            break
    callbacks.on_train_end()


def _train_step(model: keras.Model) -> Callable[[Any], dict[str, tf.Tensor]]:
    if isinstance(model, FisherRegularizedModel):
        plain = functools.partial(keras.Model.train_step, model)
        return model.switch(_on_replicas(model, plain), _on_replicas(model, model.train_step))
    return _on_replicas(model, model.train_step)


def _on_replicas(
    model: keras.Model, step: Callable[[Any], dict[str, tf.Tensor]]
) -> Callable[[Any], dict[str, tf.Tensor]]:
    """A step on all replicas; its logs are their means, for the replicas' parts are equal."""
    strategy = model.distribute_strategy

    @tf.function(autograph=False)
    def on_replicas(data: Any) -> dict[str, tf.Tensor]:
        logs = strategy.run(step, args=(data,))
        mean = tf.distribute.ReduceOp.MEAN
        return {name: strategy.reduce(mean, value, axis=None) for name, value in logs.items()}

    return on_replicas
