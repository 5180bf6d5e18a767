"""Resized images -> `tf.data` batches, for training and for evaluation."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from infomcr_tf.arguments import check_argument, check_choice
from infomcr_tf.data.augmentation import image_seed
from infomcr_tf.data.imagenet.cache import ResizedImages
from infomcr_tf.data.imagenet.jpeg_augmentation import (
    IMAGENET_AUGMENTATIONS,
    augment_jpeg,
    center_crop,
    draw_augmentation,
)
from infomcr_tf.data.normalization import Normalization
from infomcr_tf.data.order import WHOLE, Shard, batched, one_by_one, shuffled_batches


def training_crops(
    images: ResizedImages,
    positions: np.ndarray,
    *,
    batch_size: int,
    crop_size: int,
    augmentation: str,
    normalization: Normalization,
    seed: int,
    start_epoch: int = 0,
    start_step: int = 0,
    shard: Shard = WHOLE,
) -> tf.data.Dataset:
    """An endless stream of shuffled, augmented, normalised batches.

    The order, the skipping and the seeds of `infomcr_tf.data.training_dataset`: batch b of epoch e
    is a function of (`seed`, e, b), the augmentation of an image one of (`seed`, e, its position).

    Args:
        images: the cache's part to train on.
        positions: which of them, integers [N].
        batch_size: B <= N, over all workers.
        crop_size: height and width of what the network sees.
        augmentation: one of `IMAGENET_AUGMENTATIONS`.
        normalization: of images in 0..255.
        seed: integer >= 0.
        start_epoch: first epoch, from 0.
        start_step: first step in it, from 0, less than N // B.
        shard: where several workers train, whose part of each batch to give.

    Returns:
        A dataset of (float32 [B / workers, crop_size, crop_size, 3], int32 [B / workers]).

    Raises:
        ValueError: if an argument is not as described.
    """
    check_choice("augmentation", augmentation, IMAGENET_AUGMENTATIONS)
    check_crop_size(crop_size, images.image_size)
    batches = shuffled_batches(
        len(positions),
        batch_size=batch_size,
        seed=seed,
        start_epoch=start_epoch,
        start_step=start_step,
        shard=shard,
    )
    with tf.device("CPU:0"):
        positions = tf.constant(positions, tf.int64)

    def example(epoch: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        jpeg, label = images.read(positions[place][tf.newaxis])
        what = draw_augmentation(
            image_seed(seed, epoch, place),
            image_size=images.image_size,
            crop_size=crop_size,
            augmentation=augmentation,
        )
        return augment_jpeg(jpeg[0], what, crop_size, normalization), label[0]

    return batched(one_by_one(batches), example, batch_size // shard.count, drop_remainder=True)


def evaluation_crops(
    images: ResizedImages,
    positions: np.ndarray,
    *,
    batch_size: int,
    crop_size: int,
) -> tf.data.Dataset:
    """The centre crops of the images at `positions` once, in that order, as they are stored.

    Args:
        images: a part of the cache.
        positions: which of its images, integers [N].
        batch_size: largest number of examples in a batch.
        crop_size: height and width of the crop.

    Returns:
        A dataset of (uint8 [<= batch_size, crop_size, crop_size, 3], int32 [<= batch_size]).

    Raises:
        ValueError: if an argument is not as described.
    """
    check_argument("batch_size", batch_size)
    check_crop_size(crop_size, images.image_size)

    def example(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        jpeg, label = images.read(position[tf.newaxis])
        return (
            center_crop(jpeg[0], image_size=images.image_size, crop_size=crop_size),
            label[0],
        )

    dataset = tf.data.Dataset.from_tensor_slices(np.asarray(positions, np.int64))
    return batched(dataset, example, batch_size)


def check_crop_size(crop_size: int, image_size: int) -> None:
    """Raises `ValueError` where the crop is larger than the image, or empty."""
    check_argument("crop_size", crop_size)
    if crop_size > image_size:
        raise ValueError(
            f"`crop_size` must be at most the images' size, {image_size}. Received: {crop_size}"
        )
