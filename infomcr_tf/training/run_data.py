"""A run's own examples, whatever data set they come from."""

import abc

import tensorflow as tf

from infomcr_tf.data import WHOLE, Examples, Normalization, Share
from infomcr_tf.training.config import TrainConfig


class RunData(abc.ABC):
    """A run's own examples, drawn again from its configuration.

    Attributes:
        normalization: of the images, which are uint8 until then.
        image_shape: (height, width, channels) of what the network sees.
        num_classes: K.
        num_images: images in an epoch before the last, incomplete batch is dropped.
        top_k: the k of a second error that is reported, or None.
    """

    normalization: Normalization
    image_shape: tuple[int, int, int]
    num_classes: int
    num_images: int
    top_k: int | None = None

    @abc.abstractmethod
    def training_batches(
        self, config: TrainConfig, *, start_epoch: int = 0, share: Share = WHOLE
    ) -> tf.data.Dataset:
        """Endless shuffled, augmented batches of (images, integer labels).

        Args:
            config: resolved.
            start_epoch: the epoch to begin with, from 0.
            share: whose part of every batch to give.
        """

    @abc.abstractmethod
    def evaluation_batches(
        self, part: str, *, batch_size: int = 256, share: Share = WHOLE
    ) -> tf.data.Dataset | None:
        """The un-augmented, normalised images of "train", "validation" or "test", with labels.

        Args:
            part: which; "train" is without a confusion set.
            batch_size: largest number of images in a batch.
            share: whose part of the images to give.

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
            f"`--num-images` should be at most the number of training images, {available}. "
            f"Received: {number}"
        )
    return available if number is None else number
