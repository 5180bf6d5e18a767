"""Per-channel normalisation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from infomcr_tf.arguments import check_choice
from infomcr_tf.data.image_dataset import as_array, check_images

NORMALIZATIONS = ("computed", "cifar")

_CHUNK = 1024  # images converted to float64 at a time
# Channel statistics of ImageNet's training images in [0, 1], as fb.resnet.torch states them.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

IMAGENET_NORMALIZATIONS = ("mean", "mean-std")


def _finite_numbers(values: Any) -> tuple[float, ...]:
    """`values` as floats; nothing where they are not all finite numbers."""
    try:
        numbers = tuple(float(value) for value in values if not isinstance(value, str))
        complete = len(numbers) == len(values)
    except (TypeError, ValueError, OverflowError):
        return ()
    return numbers if complete and all(map(math.isfinite, numbers)) else ()


@dataclasses.dataclass(frozen=True)
class Normalization:
    """x -> (x - mean) / std, per channel.

    Attributes:
        mean: one number per channel, in the images' own units (0..255 for uint8).
        std: one positive number per channel.

    Raises:
        ValueError: if the lengths differ, or a number is not finite, or a `std` is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        mean, std = _finite_numbers(self.mean), _finite_numbers(self.std)
        if not mean or len(mean) != len(std) or min(std) <= 0:
            raise ValueError(
                "`mean` and `std` must be one finite number per channel, `std` > 0. "
                f"Received: mean={self.mean!r}, std={self.std!r}"
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    @classmethod
    def from_images(cls, images: np.ndarray) -> Normalization:
        """Mean and standard deviation of `images` [N, H, W, C]; a constant channel keeps std 1."""
        mean, std = channel_statistics(images)
        return cls(tuple(mean), tuple(np.where(std > 0, std, 1.0)))

    def apply(self, images: np.ndarray | tf.Tensor) -> np.ndarray | tf.Tensor:
        """Normalised `images` [..., C] in float32: a tensor for a tensor, else an array.

        Raises:
            ValueError: if they are no numbers, or the number of channels is not that of `mean`.
        """
        if not tf.is_tensor(images):
            images = as_array("images", images)
            if images.dtype.kind not in "uif":
                raise ValueError(f"`images` must be numbers. Received: dtype={images.dtype}")
        if not images.shape or images.shape[-1] != len(self.mean):
            raise ValueError(
                f"`images` must have {len(self.mean)} channels, as this normalisation has. "
                f"Received: shape={tuple(images.shape)}"
            )
        mean = np.asarray(self.mean, np.float32)
        # A multiplication in both branches: TensorFlow's graph optimiser would make one of a
        # division by a constant, and the two would differ in the last bit.
        scale = (1.0 / np.asarray(self.std)).astype(np.float32)
        if tf.is_tensor(images):
            return (tf.cast(images, tf.float32) - mean) * scale
        return (images.astype(np.float32) - mean) * scale


# The statistics of the CIFAR-10 training set that WRN's released code states.
_CIFAR = Normalization(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))


def make_normalization(name: str, images: np.ndarray) -> Normalization:
    """The normalisation called `name`.

    Args:
        name: `"computed"` (from `images`) or `"cifar"`: mean 125.3, 123.0, 113.9 and standard
            deviation 63.0, 62.1, 66.7, as in the code of Zagoruyko & Komodakis (2016).
        images: training images [N, H, W, C].

    Raises:
        ValueError: if `name` is unknown or does not fit the images' channels.
    """
    if check_choice("name", name, NORMALIZATIONS) == "computed":
        return Normalization.from_images(images)
    _CIFAR.apply(images[:1])
    return _CIFAR


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, over images and pixels.

    Two passes in float64, some images at a time: no float copy of the whole set is made.

    Args:
        images: [N, H, W, C].

    Returns:
        (mean, std), each float64 [C]; std is that of the population (divisor N H W).

    Raises:
        ValueError: if `images` are empty, not finite, too large for their squares to be finite, or
            not of rank 4.
    """
    images = check_images(images)
    count = math.prod(images.shape[:3])
    mean = sum(pixels.sum(axis=0) for pixels in _pixels(images)) / count
    squares = (np.einsum("nc,nc->c", p, p) for p in (q - mean for q in _pixels(images)))
    std = np.sqrt(sum(squares) / count)
    if not np.isfinite(std).all():
        raise ValueError(
            "`images` must have squares that are finite in float64. Received: values up to "
            f"{np.abs(images).max():g}"
        )
    return mean, std


def _pixels(images: np.ndarray) -> Iterator[np.ndarray]:
    """The pixels, float64 [n, C], of some images at a time."""
    for start in range(0, len(images), _CHUNK):
        yield images[start : start + _CHUNK].astype(np.float64).reshape(-1, images.shape[-1])


def imagenet_normalization(name: str) -> Normalization:
    """The normalisation called `name`, of images in 0..255.

    Args:
        name: `"mean"`: x / 255 - mean, appendix E's "mean channels subtraction"; `"mean-std"`:
            divided by the channels' deviations too, as fb.resnet.torch does.

    Raises:
        ValueError: if `name` is unknown.
    """
    scales = (
        (1.0, 1.0, 1.0)
        if check_choice("name", name, IMAGENET_NORMALIZATIONS) == "mean"
        else _IMAGENET_STD
    )
    return Normalization(
        tuple(255.0 * mean for mean in _IMAGENET_MEAN), tuple(255.0 * scale for scale in scales)
    )
