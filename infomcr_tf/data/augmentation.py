"""The four augmentation schemes of section 7.1, one image at a time."""

from __future__ import annotations

import tensorflow as tf

from infomcr_tf.arguments import check_choice

# Pixels of padding on each side (None: no crop), and whether to flip.
_SCHEMES = {
    "no-aug": (None, False),
    "flip-only": (None, True),
    "1-crop-f": (1, True),
    "4-crop-f": (4, True),
}
AUGMENTATIONS = tuple(_SCHEMES)


def image_seed(seed: int, epoch: int | tf.Tensor, index: int | tf.Tensor) -> tf.Tensor:
    """The seed, int64 [2], of the augmentation of image `index` in epoch `epoch` of run `seed`."""
    of_epoch = stream_seed(seed, 1, epoch)
    return tf.random.experimental.stateless_fold_in(of_epoch, tf.cast(index, tf.int64))


def stream_seed(seed: int, stream: int, epoch: int | tf.Tensor) -> tf.Tensor:
    """The seed, int64 [2], of one use (`stream`) of randomness in an epoch of run `seed`."""
    run = tf.constant([seed, stream], tf.int64)
    return tf.random.experimental.stateless_fold_in(run, tf.cast(epoch, tf.int64))


def augment(image: tf.Tensor, augmentation: str, seed: tf.Tensor) -> tf.Tensor:
    """Augments one normalised image.

    A crop scheme pads the image with zeros on each side (after the normalisation, so with the mean
    colour, as He et al. (2016) do) and cuts the original size out at a uniformly random place; all
    schemes but `"no-aug"` then mirror the image left to right with probability 1/2.

    Args:
        image: float32 [H, W, C], already normalised.
        augmentation: one of `AUGMENTATIONS`.
        seed: integers [2], see `image_seed`. The result is a function of the arguments alone.

    Returns:
        float32 [H, W, C].

    Raises:
        ValueError: if `augmentation` is unknown.
    """
    padding, flip = _SCHEMES[check_choice("augmentation", augmentation, AUGMENTATIONS)]
    fold_in = tf.random.experimental.stateless_fold_in
    if padding is not None:
        size = image.shape
        image = tf.pad(image, [[padding, padding], [padding, padding], [0, 0]])
        image = tf.image.stateless_random_crop(image, size, seed=fold_in(seed, 0))
    if flip:
        image = tf.image.stateless_random_flip_left_right(image, seed=fold_in(seed, 1))
    return image
