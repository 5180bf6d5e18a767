"""ImageNet at 128 x 128 (appendix E): from the tar files or a folder of images to batches."""

from infomcr_tf.data.imagenet.cache import ResizedImages, resize_once
from infomcr_tf.data.imagenet.crops import evaluation_crops, training_crops
from infomcr_tf.data.imagenet.jpeg_augmentation import (
    IMAGENET_AUGMENTATIONS,
    Augmentation,
    augment_jpeg,
    center_crop,
    draw_augmentation,
)
from infomcr_tf.data.imagenet.source import Source, open_source
from infomcr_tf.data.normalization import IMAGENET_NORMALIZATIONS, imagenet_normalization
from infomcr_tf.lazy import lazy_names

__all__ = [
    "IMAGENET_AUGMENTATIONS",
    "IMAGENET_NORMALIZATIONS",
    "Augmentation",
    "ResizedImages",
    "Source",
    "augment_jpeg",
    "center_crop",
    "draw_augmentation",
    "evaluation_crops",
    "imagenet_normalization",
    "open_source",
    "resize_once",
    "training_crops",
]

# What these were called before.
__getattr__ = lazy_names(
    __name__,
    {
        "AUGMENTATIONS": f"{__name__}.jpeg_augmentation:IMAGENET_AUGMENTATIONS",
        "NORMALIZATIONS": "infomcr_tf.data.normalization:IMAGENET_NORMALIZATIONS",
        "augment": f"{__name__}.jpeg_augmentation:augment_jpeg",
        "evaluation_dataset": f"{__name__}.crops:evaluation_crops",
        "make_normalization": "infomcr_tf.data.normalization:imagenet_normalization",
        "training_dataset": f"{__name__}.crops:training_crops",
    },
)
