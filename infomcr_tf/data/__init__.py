"""Data sets, splits, normalisation and augmentation: from a name to `tf.data` batches."""

from infomcr_tf.data.augmentation import AUGMENTATIONS, augment, image_seed
from infomcr_tf.data.datasets import DATASETS, DatasetEntry, load_dataset
from infomcr_tf.data.image_dataset import ImageDataset, check_labelled_images
from infomcr_tf.data.normalization import (
    NORMALIZATIONS,
    Normalization,
    channel_statistics,
    make_normalization,
)
from infomcr_tf.data.order import WHOLE, Shard
from infomcr_tf.data.pipeline import evaluation_dataset, training_dataset
from infomcr_tf.data.splits import Examples, Splits, shuffled_positions, split_dataset
from infomcr_tf.lazy import lazy_names

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "NORMALIZATIONS",
    "WHOLE",
    "DatasetEntry",
    "Examples",
    "ImageDataset",
    "Normalization",
    "Shard",
    "Splits",
    "augment",
    "channel_statistics",
    "check_labelled_images",
    "evaluation_dataset",
    "image_seed",
    "load_dataset",
    "make_normalization",
    "shuffled_positions",
    "split_dataset",
    "training_dataset",
]

# What these were called before.
__getattr__ = lazy_names(
    __name__,
    {
        "Share": f"{__name__}.order:Shard",
        "check_examples": f"{__name__}.image_dataset:check_labelled_images",
    },
)
