"""A run's own examples, whatever data set they come from."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import tensorflow as tf

from infomcr_tf.data import WHOLE, Examples, Normalization, Shard
from infomcr_tf.data.order import START, Position, shuffled_batches
from infomcr_tf.training.resolved_config import ResolvedConfig


class RunData(abc.ABC):
    """A run's own examples, drawn again from its configuration.

    Attributes:
        normalization: of the images, which are uint8 until then.
        image_shape: (height, width, channels) of what the network sees.
        num_classes: K.
        num_measured: training images without the confusion set.
        indices: int64 [N], where the images of an epoch stand in the data set's training set.
        top_k: the k of a second error that is reported, or None.
    """

    normalization: Normalization
    image_shape: tuple[int, int, int]
    num_classes: int
    num_measured: int
    indices: np.ndarray
    top_k: int | None = None

    @property
    def num_images(self) -> int:
        """Images in an epoch, before the last, incomplete batch is dropped."""
        return len(self.indices)

    def batch_indices(self, config: ResolvedConfig, position: Position) -> np.ndarray:
        """Which images of the data set's training set a step trains on.

        Args:
            config: resolved.
            position: the step.
        """
        batches = shuffled_batches(
            self.num_images,
            batch_size=config.batch_size,
            seed=config.seed,
            start_epoch=position.epoch,
            start_step=position.step,
        )
        _, batch = next(iter(batches))
        return self.indices[batch.numpy()]

    @classmethod
    @abc.abstractmethod
    def load(cls, config: Any) -> RunData:
        """The examples of a run with this configuration."""

    @abc.abstractmethod
    def training_batches(
        self, config: ResolvedConfig, *, start: Position = START, shard: Shard = WHOLE
    ) -> tf.data.Dataset:
        """Endless shuffled, augmented batches of (images, integer labels).

        Args:
            config: resolved.
            start: the step to begin with.
            shard: whose part of every batch to give.
        """

    @abc.abstractmethod
    def evaluation_batches(
        self, part: str, *, batch_size: int = 256, shard: Shard = WHOLE
    ) -> tf.data.Dataset | None:
        """The un-augmented, normalised images of one part, with labels.

        Args:
            part: "train" (without the confusion set), "confusion", "validation" or "test".
            batch_size: largest number of images in a batch.
            shard: whose part of the images to give.

        Returns:
            A finite data set, or None where this run has no such part.
        """

    @abc.abstractmethod
    def training_images(self, number: int | None = None) -> Examples:
        """The run's un-augmented training images, without a confusion set, or some of them.

        Args:
            number: how many to draw at random; None for all, or as many as memory can be expected
                to hold.

        Raises:
            ValueError: if there are fewer.
        """


def draw_number(number: int | None, available: int) -> int:
    """Returns how many images to draw of those available.

    Raises:
        ValueError: if there are fewer.
    """
    if number is not None and number > available:
        raise ValueError(
            f"`--num-images` must be at most the number of training images, {available}. "
            f"Received: {number}"
        )
    return available if number is None else number
