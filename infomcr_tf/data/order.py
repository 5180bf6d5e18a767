"""Which images are in which batch: a function of the seed, the epoch and the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from infomcr_tf.arguments import check_argument, check_integer
from infomcr_tf.data.augmentation import stream_seed


@dataclasses.dataclass(frozen=True)
class Shard:
    """The part of every batch, or of a set to evaluate, that is one worker's.

    Attributes:
        index: of the worker, from 0.
        count: of workers.
    """

    index: int = 0
    count: int = 1

    def slice(self, size: int) -> slice:
        """This worker's part of `size` things in a row; the parts' sizes differ by at most 1."""
        return slice(size * self.index // self.count, size * (self.index + 1) // self.count)


WHOLE = Shard()


@dataclasses.dataclass(frozen=True)
class Position:
    """The step that comes next.

    Attributes:
        epoch: from 0.
        step: in the epoch, from 0.
    """

    epoch: int = 0
    step: int = 0


START = Position()


def check_batch_fits(batch_size: int, num_images: int) -> None:
    """Raises `ValueError` where there are too few images for one batch."""
    if batch_size > num_images:
        raise ValueError(
            f"`batch_size` must be at most the number of images, {num_images}. "
            f"Received: {batch_size}. Pass a smaller `batch_size`."
        )


def shuffled_batches(
    num_images: int,
    *,
    batch_size: int,
    seed: int,
    start_epoch: int = 0,
    start_step: int = 0,
    shard: Shard = WHOLE,
) -> tf.data.Dataset:
    """An endless stream of batches of positions; see `training_dataset`.

    Args:
        num_images: N.
        batch_size: B <= N, over all workers, a multiple of their number.
        seed: integer >= 0.
        start_epoch: first epoch, from 0.
        start_step: first step in it, from 0, less than N // B.
        shard: whose part of each batch to give.

    Returns:
        A dataset of (epoch, positions), int64 scalar and int64 [B / workers].

    Raises:
        ValueError: if an argument is not as described.
    """
    seed = check_argument("seed", seed)
    batch_size = check_argument("batch_size", batch_size)
    start_epoch = check_integer("start_epoch", start_epoch, minimum=0)
    start_step = check_integer("start_step", start_step, minimum=0)
    check_batch_fits(batch_size, num_images)
    steps = num_images // batch_size
    if start_step >= steps:
        raise ValueError(
            f"`start_step` must be less than the {steps} steps of an epoch. Received: {start_step}"
        )
    if batch_size % shard.count:
        raise ValueError(
            f"`batch_size` must be divisible by the number of workers, {shard.count}. "
            f"Received: {batch_size}"
        )
    own = shard.slice(batch_size)

    def batches_of(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(num_images, dtype=tf.int64), seed=stream_seed(seed, 0, epoch)
        )
        batches = tf.reshape(order[: steps * batch_size], [steps, batch_size])[:, own]
        return tf.data.Dataset.from_tensor_slices((tf.fill([steps], epoch), batches))

    dataset = tf.data.Dataset.counter(start_epoch).flat_map(batches_of).skip(start_step)
    # `flat_map` does not know that its epochs never end; Keras asks.
    return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))


def one_by_one(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Takes the batches of `shuffled_batches` apart: pairs of (epoch, position), scalars."""
    return batches.map(lambda epoch, own: (tf.fill(tf.shape(own), epoch), own)).unbatch()


def batched(
    positions: tf.data.Dataset,
    example: Callable[..., Any],
    batch_size: int,
    *,
    drop_remainder: bool = False,
) -> tf.data.Dataset:
    """Batches of the examples that `example` makes of `positions`, in that order, prefetched."""
    dataset = positions.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return finished(dataset.batch(batch_size, drop_remainder=drop_remainder))


def finished(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetches; and distributes examples, not files, over the replicas of a strategy."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)
