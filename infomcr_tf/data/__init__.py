"""Data sets, splits, normalisation and augmentation: from a name to `tf.data` batches."""

from infomcr_tf.data.augmentation import AUGMENTATIONS, augment, image_seed
from infomcr_tf.data.datasets import DATASETS, load_dataset
from infomcr_tf.data.examples import ImageDataset, check_examples
from infomcr_tf.data.normalization import (
    NORMALIZATIONS,
    Normalization,
    channel_statistics,
    make_normalization,
)
from infomcr_tf.data.order import WHOLE, Share
from infomcr_tf.data.pipeline import evaluation_dataset, training_dataset
from infomcr_tf.data.splits import Examples, Splits, shuffled_positions, split_dataset

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "NORMALIZATIONS",
    "WHOLE",
    "Examples",
    "ImageDataset",
    "Normalization",
    "Share",
    "Splits",
    "augment",
    "channel_statistics",
    "check_examples",
    "evaluation_dataset",
    "image_seed",
    "load_dataset",
    "make_normalization",
    "shuffled_positions",
    "split_dataset",
    "training_dataset",
]
