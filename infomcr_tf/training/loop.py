"""The loop of `fit`, which can begin at any step, be stopped at any, and runs on several machines.

Keras' own begins with a whole epoch and hides the steps, and Keras 3 has none for several machines.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from infomcr_tf.command_line.signals import between_steps
from infomcr_tf.regularizer import FisherRegularizedModel
from infomcr_tf.regularizer.step import fused_train_step
from infomcr_tf.training.checkpoint import Checkpoint
from infomcr_tf.training.nonfinite import NonFiniteGuard
from infomcr_tf.training.workers import Workers


def train(
    model: keras.Model,
    batches: tf.data.Dataset,
    *,
    steps_per_epoch: int,
    epochs: int,
    callbacks: keras.callbacks.CallbackList,
    checkpoint: Checkpoint,
    guard: NonFiniteGuard,
    workers: Workers,
) -> None:
    """Trains a compiled model from `checkpoint.position` on; every worker calls it.

    Args:
        model: made and compiled in its strategy's scope, its metrics built.
        batches: endless, from the position on; of this worker's shard of every batch.
        steps_per_epoch: batches in an epoch.
        epochs: the epoch to stop before.
        callbacks: with `model` set; among them `checkpoint`.
        checkpoint: restored.
        guard: makes the steps; it watches the model.
        workers: who trains.

    Raises:
        Interrupted: after SIGINT or SIGTERM, at the end of the step, when all is saved.
        NonFiniteError: if a step leaves NaN or infinity.
    """
    begin = checkpoint.position
    iterator = _iterator(model, batches, workers)
    train_step = _step_on_workers(model) if workers.several else _step(model)
    model.stop_training = False
    callbacks.on_train_begin()
    with between_steps() as signal:
        for epoch in range(begin.epoch, epochs):
            first = begin.step if epoch == begin.epoch else 0
            if first == 0:  # else they continue from the checkpoint
                model.reset_metrics()
            callbacks.on_epoch_begin(epoch)
            for step in range(first, steps_per_epoch):
                callbacks.on_train_batch_begin(step)
                logs = guard.step(lambda: train_step(iterator), epoch, step)
                callbacks.on_train_batch_end(step, logs)
                if signal and step + 1 < steps_per_epoch:
                    checkpoint.save()
                    signal.raise_interrupted()
            # A skipped step's logs are of no use.
            logs = logs if workers.several else model.get_metrics_result()
            logs = {name: float(value) for name, value in logs.items()} | guard.end_epoch()
            callbacks.on_epoch_end(epoch, logs)
            signal.raise_interrupted()
            if model.stop_training:
                break
    callbacks.on_train_end()


def _iterator(model: keras.Model, batches: tf.data.Dataset, workers: Workers) -> Iterator[Any]:
    strategy = model.distribute_strategy
    if not workers.several:
        return iter(strategy.experimental_distribute_dataset(batches))
    local_replicas = strategy.num_replicas_in_sync // workers.shard.count
    size = batches.element_spec[0].shape[0] // local_replicas
    return iter(strategy.distribute_datasets_from_function(lambda _: batches.rebatch(size)))


def _step(model: keras.Model) -> Callable[[Any], dict[str, tf.Tensor]]:
    if isinstance(model, FisherRegularizedModel):
        model.make_train_function()
        return model.train_function
    return model._make_function(functools.partial(fused_train_step, model))


def _step_on_workers(model: keras.Model) -> Callable[[Any], dict[str, tf.Tensor]]:
    if isinstance(model, FisherRegularizedModel):
        plain, regularized = model.plain_step, model.train_step
        step = model.switch(_on_replicas(model, plain), _on_replicas(model, regularized))
    else:
        step = _on_replicas(model, functools.partial(fused_train_step, model))
    return lambda iterator: step(next(iterator))


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
