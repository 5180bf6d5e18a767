"""Labelled images in memory, and the checks that every entry into this package shares."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from infomcr_tf.arguments import check_integer


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset:
    """A labelled image data set in memory, in its order of storage.

    Attributes:
        name: what `load_dataset` calls it.
        x_train: uint8 [N, H, W, C].
        y_train: int32 [N], each in [0, num_classes).
        x_test: uint8 [N_test, H, W, C].
        y_test: int32 [N_test].
        num_classes: K.

    Raises:
        ValueError: if the arrays do not fit that description.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int

    def __post_init__(self) -> None:
        check_integer("num_classes", self.num_classes, minimum=1)
        for part in ("train", "test"):
            images, labels = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            images, labels = check_labelled_images(images, labels, num_classes=self.num_classes)
            if images.dtype != np.uint8:
                raise ValueError(f"`x_{part}` must be uint8. Received: dtype={images.dtype}")
            object.__setattr__(self, f"x_{part}", images)
            object.__setattr__(self, f"y_{part}", labels)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                "`x_train` and `x_test` must hold images of one shape. Received: "
                f"{self.x_train.shape[1:]} and {self.x_test.shape[1:]}"
            )


def as_array(name: str, value: Any) -> np.ndarray:
    """Returns `value` as an array.

    Raises:
        ValueError: if it is a list of lists of different lengths; the message calls it `name`.
    """
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"`{name}` must be an array. Received: {error}") from None


def check_images(images: np.ndarray) -> np.ndarray:
    """Returns `images` as an array, checked.

    Args:
        images: [N, H, W, C], N >= 1, unsigned integers or finite floating point numbers.

    Raises:
        ValueError: if they are not.
    """
    images = as_array("images", images)
    if images.ndim != 4:
        raise ValueError(
            f"`images` must be [N, height, width, channels]. Received: shape={images.shape}"
        )
    if not images.size:
        raise ValueError(f"`images` must not be empty. Received: shape={images.shape}")
    if images.dtype.kind not in "uif":
        raise ValueError(f"`images` must be numbers. Received: dtype={images.dtype}")
    if images.dtype.kind == "f":
        # Image by image, so that the mask of a large array is never held whole.
        bad = next((i for i, image in enumerate(images) if not np.isfinite(image).all()), None)
        if bad is not None:
            raise ValueError(
                f"`images` must be finite. Received: NaN or infinite values, first in image {bad}"
            )
    return images


def check_labelled_images(
    images: np.ndarray, labels: np.ndarray, *, num_classes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `images` and `labels` as arrays, labels as int32, after checking them.

    Args:
        images: [N, H, W, C], N >= 1, integers or finite floating point numbers.
        labels: integers [N].
        num_classes: K, where known: then each label must be in [0, K).

    Raises:
        ValueError: if they do not fit that description or each other.
    """
    if num_classes is not None:
        check_integer("num_classes", num_classes, minimum=1)
    images, labels = check_images(images), as_array("labels", labels)
    if labels.shape != images.shape[:1]:
        raise ValueError(
            "`labels` must be one integer per image, shape "
            f"{images.shape[:1]}. Received: shape={labels.shape}"
        )
    if labels.dtype.kind not in "ui":
        raise ValueError(f"`labels` must be integers. Received: dtype={labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        limit = "" if num_classes is None else f" and < num_classes={num_classes}"
        raise ValueError(f"`labels` must be >= 0{limit}. Received: labels from {low} to {high}")
    return images, labels.astype(np.int32, copy=False)
