"""The configuration of a training run on ImageNet."""

import dataclasses

from infomcr_tf.command_line.options import option, required
from infomcr_tf.data.imagenet import IMAGENET_AUGMENTATIONS, IMAGENET_NORMALIZATIONS
from infomcr_tf.data.imagenet.crops import check_crop_size
from infomcr_tf.data.imagenet.source import check_places
from infomcr_tf.models import ARCHITECTURES
from infomcr_tf.training.config import DATA_GROUP, TRAINING_GROUP, TrainConfig
from infomcr_tf.training.resolved_config import ResolvedConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageNetConfig(TrainConfig):
    """What a run of `train_imagenet.py` is asked for; None stands for the recipe's value.

    ImageNet's own validation set is the test set here, as in Table 2.

    Raises:
        ValueError: if a value is out of range, or two values exclude each other.
    """

    manual_dir: str | None = option(
        None,
        "Folder with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar; needed the first time.",
        group=DATA_GROUP,
        changeable=True,
        identifies=False,
    )
    image_folder: str | None = option(
        None,
        "Instead of these: a folder with images in train/CLASS/ and val/CLASS/.",
        group=DATA_GROUP,
        changeable=True,
        identifies=False,
    )
    cache_dir: str | None = option(
        None,
        "Folder for the resized images (default: resized/ beside the data set).",
        group=DATA_GROUP,
        changeable=True,
        identifies=False,
    )
    image_size: int = option(
        128, "Height and width that the images are resized to, once.", group=DATA_GROUP
    )
    crop_size: int = option(114, "Height and width of the crops.", group=DATA_GROUP)
    augmentation: str | None = option(
        None,
        "Augmentation of appendix E (default: standard: crop, flip, colours, lighting).",
        group=DATA_GROUP,
        choices=IMAGENET_AUGMENTATIONS,
    )
    normalization: str = option(
        "mean",
        "Mean subtraction, or division by the channels' stds too.",
        group=DATA_GROUP,
        choices=IMAGENET_NORMALIZATIONS,
    )
    model: str = option("wrn18_1_5", "Architecture.", group=TRAINING_GROUP, choices=ARCHITECTURES)

    def __post_init__(self) -> None:
        super().__post_init__()
        with self.named_as_flags():
            check_crop_size(self.crop_size, self.image_size)
            check_places(self.data_dir, self.manual_dir, self.image_folder)

    @property
    def default_name(self) -> str:
        """Name of the data set, in the run folder's default."""
        return "imagenet"

    @property
    def default_augmentation(self) -> str:
        """Appendix E's."""
        return "standard"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResolvedImageNetConfig(ResolvedConfig, ImageNetConfig):
    """An `ImageNetConfig` with nothing left to the recipe: what the run folder records."""

    augmentation: str = required(ImageNetConfig, "augmentation")


ImageNetConfig.resolved_class = ResolvedImageNetConfig
