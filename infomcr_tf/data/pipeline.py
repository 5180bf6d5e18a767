"""Images in memory -> `tf.data` batches, for training and for evaluation."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from infomcr_tf.arguments import check_argument, check_choice
from infomcr_tf.data.augmentation import AUGMENTATIONS, augment, image_seed
from infomcr_tf.data.image_dataset import check_labelled_images
from infomcr_tf.data.normalization import Normalization
from infomcr_tf.data.order import WHOLE, Shard, batched, finished, one_by_one, shuffled_batches


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
    shard: Shard = WHOLE,
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
        shard: where several workers train, whose part of each batch to give.

    Returns:
        A dataset of (float32 [B, H, W, C], int32 [B]); B / workers examples for a shard.

    Raises:
        ValueError: if an argument is not as described.
    """
    images, labels = check_labelled_images(images, labels)
    check_choice("augmentation", augmentation, AUGMENTATIONS)
    batches = shuffled_batches(
        len(images),
        batch_size=batch_size,
        seed=seed,
        start_epoch=start_epoch,
        start_step=start_step,
        shard=shard,
    )
    normalization.apply(images[:1])  # fails here, not in a graph, where the channels differ
    with tf.device("CPU:0"):
        images, labels = tf.constant(images), tf.constant(labels)

    def example(epoch: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = normalization.apply(images[index])
        return augment(image, augmentation, image_seed(seed, epoch, index)), labels[index]

    return batched(one_by_one(batches), example, batch_size // shard.count, drop_remainder=True)


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
    images, labels = check_labelled_images(images, labels)
    batch_size = check_argument("batch_size", batch_size)
    normalization.apply(images[:1])
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)
    dataset = dataset.map(
        lambda x, y: (normalization.apply(x), y),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return finished(dataset)
