"""ImageNet at 128 x 128 (appendix E): from the tar files or a folder of images to batches."""

from infomcr_tf.data.imagenet.augmentation import (
    AUGMENTATIONS,
    Augmentation,
    augment,
    center_crop,
    draw_augmentation,
)
from infomcr_tf.data.imagenet.cache import ResizedImages, resize_once
from infomcr_tf.data.imagenet.normalization import NORMALIZATIONS, make_normalization
from infomcr_tf.data.imagenet.pipeline import evaluation_dataset, training_dataset
from infomcr_tf.data.imagenet.source import Source, open_source

__all__ = [
    "AUGMENTATIONS",
    "NORMALIZATIONS",
    "Augmentation",
    "ResizedImages",
    "Source",
    "augment",
    "center_crop",
    "draw_augmentation",
    "evaluation_dataset",
    "make_normalization",
    "open_source",
    "resize_once",
    "training_dataset",
]
