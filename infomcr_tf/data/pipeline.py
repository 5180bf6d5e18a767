"""Images in memory -> `tf.data` batches, for training and for evaluation."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from infomcr_tf.data.augmentation import AUGMENTATIONS, augment, image_seed, stream_seed
from infomcr_tf.data.examples import check_choice, check_examples, check_integer
from infomcr_tf.data.normalization import Normalization


def training_dataset(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    augmentation: str,
    normalization: Normalization,
    seed: int,
    start_epoch: int = 0,
    start_step: int = 0,
) -> tf.data.Dataset:
    """An endless stream of shuffled, augmented, normalised batches.

    Each epoch is a fresh permutation of the examples; N mod B of them, others each time, are left
    out so that all batches have B examples. Use it with `fit(steps_per_epoch=N // B)`. Batch b of
    epoch e is a function of (`seed`, e, b) and the augmentation of image i in it one of
    (`seed`, e, i), so a stream begun at (`start_epoch`, `start_step`) continues another exactly;
    what it skips costs no image.

    Args:
        images: [N, H, W, C], uint8 or floating point. Held once, in this type.
        labels: integers [N].
        batch_size: B <= N.
        augmentation: one of `AUGMENTATIONS`.
        normalization: applied before the augmentation.
        seed: integer >= 0.
        start_epoch: first epoch, from 0.
        start_step: first step in it, from 0, less than N // B.

    Returns:
        A dataset of (float32 [B, H, W, C], int32 [B]).

    Raises:
        ValueError: if an argument is not as described.
    """
    images, labels = check_examples(images, labels)
    check_choice("augmentation", augmentation, AUGMENTATIONS)
    seed = check_integer("seed", seed, minimum=0)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    start_epoch = check_integer("start_epoch", start_epoch, minimum=0)
    start_step = check_integer("start_step", start_step, minimum=0)
    num_images, steps = len(images), len(images) // batch_size
    if not steps:
        raise ValueError(
            f"`batch_size` should be at most the number of images, {num_images}. "
            f"Received: {batch_size}. Pass a smaller `batch_size`."
        )
    if start_step >= steps:
        raise ValueError(
            f"`start_step` should be less than the {steps} steps of an epoch. "
            f"Received: {start_step}"
        )
    normalization.apply(images[:1])  # fails here, not in a graph, where the channels differ
    with tf.device("CPU:0"):
        images, labels = tf.constant(images), tf.constant(labels)

    def indices_of(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(num_images, dtype=tf.int64), seed=stream_seed(seed, 0, epoch)
        )
        order = order[: steps * batch_size]
        return tf.data.Dataset.from_tensor_slices((tf.fill(tf.shape(order), epoch), order))

    def example(epoch: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = normalization.apply(images[index])
        return augment(image, augmentation, image_seed(seed, epoch, index)), labels[index]

    dataset = tf.data.Dataset.counter(start_epoch).flat_map(indices_of)
    dataset = dataset.skip(start_step * batch_size)
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=True)
    # `flat_map` does not know that its epochs never end; Keras asks.
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    dataset = dataset.apply(endless)
    return _finish(dataset)


def evaluation_dataset(
    images: np.ndarray, labels: np.ndarray, *, batch_size: int, normalization: Normalization
) -> tf.data.Dataset:
    """All examples once, in order, normalised and not augmented; the last batch may be smaller.

    Args:
        images: [N, H, W, C], uint8 or floating point.
        labels: integers [N].
        batch_size: largest number of examples in a batch.
        normalization: applied to the images.

    Returns:
        A dataset of (float32 [<= batch_size, H, W, C], int32 [<= batch_size]).

    Raises:
        ValueError: if an argument is not as described.
    """
    images, labels = check_examples(images, labels)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    normalization.apply(images[:1])
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)
    dataset = dataset.map(
        lambda x, y: (normalization.apply(x), y),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return _finish(dataset)


def _finish(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    # There are no files to give to the workers of a distribution strategy, only examples.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)
