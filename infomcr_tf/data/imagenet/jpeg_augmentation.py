"""Random crop, flip, colour jitter and lighting, one image at a time (appendix E)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from infomcr_tf.arguments import check_choice
from infomcr_tf.data.normalization import Normalization

IMAGENET_AUGMENTATIONS = ("standard", "crop-flip", "no-aug")

# Of fb.resnet.torch, the code of He et al.: ColorJitter(0.4, 0.4, 0.4) and Lighting(0.1), with the
# principal components of ImageNet's RGB values in [0, 1].
_JITTER = 0.4
_LIGHTING = 0.1
_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = np.array(
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ]
)
_GRAY = np.array([0.299, 0.587, 0.114])  # sums to 1


class Augmentation(NamedTuple):
    """What is done to one image.

    Attributes:
        row: int32 scalar, first row of the crop.
        column: int32 scalar, its first column.
        flip: boolean scalar, whether to mirror it left to right.
        factors: float32 [3], of brightness, contrast and saturation.
        lighting: float32 [3], what is added to R, G and B in [0, 1].
    """

    row: tf.Tensor
    column: tf.Tensor
    flip: tf.Tensor
    factors: tf.Tensor
    lighting: tf.Tensor


def draw_augmentation(
    seed: tf.Tensor, *, image_size: int, crop_size: int, augmentation: str
) -> Augmentation:
    """Draws what is done to one image.

    `"standard"`: the crop's place uniform over the image, a flip with probability 1/2, the three
    factors uniform in [0.6, 1.4], lighting V (lambda * n) with n normal of deviation 0.1.
    `"crop-flip"` leaves the colours as they are; `"no-aug"` is the centre crop.

    Args:
        seed: integers [2]. The result is a function of the arguments alone.
        image_size: height and width of the images.
        crop_size: of the crop.
        augmentation: one of `IMAGENET_AUGMENTATIONS`.

    Raises:
        ValueError: if `augmentation` is unknown.
    """
    check_choice("augmentation", augmentation, IMAGENET_AUGMENTATIONS)
    factors, lighting = tf.ones(3), tf.zeros(3)
    if augmentation == "no-aug":
        place = tf.constant((image_size - crop_size) // 2)
        return Augmentation(place, place, tf.constant(False), factors, lighting)
    uniform = tf.random.stateless_uniform([6], seed)  # in [0, 1)
    place = tf.cast(uniform[:2] * (image_size - crop_size + 1), tf.int32)
    if augmentation == "standard":
        factors = 1 + _JITTER * (2 * uniform[3:] - 1)
        normal = tf.random.stateless_normal(
            [3, 1], tf.random.experimental.stateless_fold_in(seed, 1), stddev=_LIGHTING
        )
        axes = tf.constant(_EIGENVECTORS * _EIGENVALUES, tf.float32)
        lighting = tf.squeeze(axes @ normal, axis=1)
    return Augmentation(place[0], place[1], uniform[2] < 0.5, factors, lighting)


def augment_jpeg(
    jpeg: tf.Tensor, augmentation: Augmentation, crop_size: int, normalization: Normalization
) -> tf.Tensor:
    r"""Decodes the crop of an image, augments and normalises it.

    With b, c, s the factors and gray(x) = 0.299 R + 0.587 G + 0.114 B, brightness is x -> b x,
    contrast x -> c x + (1 - c) m with m the mean of gray(x) over the image, saturation
    x -> s x + (1 - s) gray(x). The three are applied in random order in fb.resnet.torch, which does
    not clip; but so they commute (saturation leaves gray(x) as it is, brightness and contrast
    multiply it and m alike), and every order gives

        b (c (s x + (1 - s) gray(x)) + (1 - c) m),

    an affine map of RGB. With lighting and normalisation it remains one, and is applied as one.

    Args:
        jpeg: string scalar, an image without chroma subsampling.
        augmentation: what to do.
        crop_size: of the crop.
        normalization: of images in 0..255.

    Returns:
        float32 [crop_size, crop_size, 3].
    """
    window = tf.stack([augmentation.row, augmentation.column, crop_size, crop_size])
    image = tf.io.decode_and_crop_jpeg(jpeg, window, channels=3, dct_method="INTEGER_ACCURATE")
    image = tf.cond(augmentation.flip, lambda: tf.reverse(image, [1]), lambda: image)
    pixels = tf.cast(tf.reshape(image, [crop_size**2, 3]), tf.float32)
    scale, shift = _affine_map(
        augmentation, tf.reduce_mean(pixels, axis=0), tf.constant(normalization.mean, tf.float32)
    )
    deviations = tf.constant(normalization.std, tf.float32)
    pixels = pixels @ (scale / deviations) + shift / deviations
    return tf.reshape(pixels, [crop_size, crop_size, 3])


def center_crop(jpeg: tf.Tensor, *, image_size: int, crop_size: int) -> tf.Tensor:
    """Decodes the middle of an image: uint8 [crop_size, crop_size, 3]."""
    place = (image_size - crop_size) // 2
    image = tf.io.decode_and_crop_jpeg(
        jpeg, [place, place, crop_size, crop_size], channels=3, dct_method="INTEGER_ACCURATE"
    )
    return tf.ensure_shape(image, [crop_size, crop_size, 3])


def _affine_map(
    augmentation: Augmentation, mean_pixel: tf.Tensor, subtracted: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """[3, 3] and [3] of the map x -> x A + a that is jitter, lighting and mean subtraction."""
    brightness, contrast, saturation = tf.unstack(augmentation.factors)
    gray = tf.constant(_GRAY, tf.float32)
    gray_mean = tf.reduce_sum(gray * mean_pixel)
    to_gray = tf.repeat(gray[:, tf.newaxis], 3, axis=1)  # every channel becomes gray(x)
    scale = brightness * contrast * (saturation * tf.eye(3) + (1 - saturation) * to_gray)
    shift = brightness * (1 - contrast) * gray_mean + 255 * augmentation.lighting - subtracted
    return scale, shift
