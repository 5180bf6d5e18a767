"""CIFAR-10, CIFAR-100 and the digits, in memory."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from infomcr_tf import data
from infomcr_tf.data import WHOLE, Examples, Normalization, Shard, Splits
from infomcr_tf.data.order import START, Position
from infomcr_tf.training.cifar_config import CifarConfig
from infomcr_tf.training.resolved_config import ResolvedConfig
from infomcr_tf.training.run_data import RunData, draw_number


class CifarData(RunData):
    """See `RunData`.

    Attributes:
        splits: the parts of the data set.
    """

    def __init__(self, splits: Splits, normalization: Normalization, seed: int) -> None:
        self.splits = splits
        self.normalization = normalization
        self.image_shape = splits.train.images.shape[1:]
        self.num_classes = splits.num_classes
        self.num_measured = len(splits.train)
        self._images, self._labels = splits.training_examples()
        self.indices = np.concatenate([splits.train.indices, splits.confusion.indices])
        self._seed = seed

    @classmethod
    def load(cls, config: CifarConfig) -> "CifarData":
        """Loads and splits the data set.

        Raises:
            ValueError: if it cannot be had, or the sizes do not fit.
        """
        dataset = _load_dataset(config.dataset, config.data_dir)
        with config.named_as_flags():
            splits = data.split_dataset(
                dataset,
                train_size=config.train_size,
                validation_size=config.validation_size,
                confusion_size=config.confusion_size,
                nested=config.nested_sets,
                seed=config.seed,
            )
        normalization = data.make_normalization(config.normalization, splits.train.images)
        return cls(splits, normalization, config.seed)

    def training_batches(
        self, config: ResolvedConfig, *, start: Position = START, shard: Shard = WHOLE
    ) -> tf.data.Dataset:
        """See `RunData`."""
        return data.training_dataset(
            self._images,
            self._labels,
            batch_size=config.batch_size,
            augmentation=config.augmentation,
            normalization=self.normalization,
            seed=config.seed,
            start_epoch=start.epoch,
            start_step=start.step,
            shard=shard,
        )

    def evaluation_batches(
        self, part: str, *, batch_size: int = 256, shard: Shard = WHOLE
    ) -> tf.data.Dataset | None:
        """See `RunData`."""
        examples: Examples = getattr(self.splits, part)
        if not len(examples):
            return None
        own = shard.slice(len(examples))
        empty = own.start == own.stop  # more workers than images
        batches = data.evaluation_dataset(
            examples.images[:1] if empty else examples.images[own],
            examples.labels[:1] if empty else examples.labels[own],
            batch_size=batch_size,
            normalization=self.normalization,
        )
        return batches.take(0) if empty else batches

    def training_images(self, number: int | None = None) -> Examples:
        """See `RunData`."""
        train = self.splits.train
        count = draw_number(number, len(train))
        if count == len(train):
            return train
        chosen = np.sort(data.shuffled_positions(len(train), self._seed)[:count])
        return Examples(
            **{
                field.name: getattr(train, field.name)[chosen]
                for field in dataclasses.fields(Examples)
            }
        )


# Decoding CIFAR takes seconds; runs that are compared share a data set.
_load_dataset = functools.lru_cache(maxsize=1)(data.load_dataset)
