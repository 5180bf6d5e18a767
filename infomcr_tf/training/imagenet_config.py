"""The configuration of a training run on ImageNet."""

import dataclasses

from infomcr_tf.command_line.options import option, required
from infomcr_tf.data.imagenet import IMAGENET_AUGMENTATIONS, IMAGENET_NORMALIZATIONS
from infomcr_tf.models import ARCHITECTURES
from infomcr_tf.training.config import TRAINING_GROUP, ResolvedConfig, TrainConfig

_DATA = "data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageNetConfig(TrainConfig):
    """What a run of `train_imagenet.py` is asked for; None stands for the recipe's value.

    Raises:
        ValueError: if a value is out of range, or two values exclude each other.
    """

    data_dir: str | None = option(
        None,
        "Folder in which tensorflow-datasets keeps imagenet2012 (default: its own, "
        "~/tensorflow_datasets).",
        group=_DATA,
        changeable=True,
        identifies=False,
    )
    manual_dir: str | None = option(
        None,
        "Folder with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar; needed the first time.",
        group=_DATA,
        changeable=True,
        identifies=False,
    )
    image_folder: str | None = option(
        None,
        "Instead of these: a folder with images in train/CLASS/ and val/CLASS/.",
        group=_DATA,
        changeable=True,
        identifies=False,
    )
    cache_dir: str | None = option(
        None,
        "Folder for the resized images (default: resized/ beside the data set).",
        group=_DATA,
        changeable=True,
        identifies=False,
    )
    image_size: int = option(
        128,
        "Height and width that the images are resized to, once.",
        group=_DATA,
        minimum=8,
    )
    crop_size: int = option(114, "Height and width of the crops.", group=_DATA, minimum=8)
    train_size: int | None = option(
        None,
        "Random subset of the training images (default: all that the validation set leaves).",
        group=_DATA,
        minimum=1,
    )
    validation_size: int = option(
        0,
        "Training images held out, to choose beta with. ImageNet's own validation set is the test "
        "set here, as in Table 2.",
        group=_DATA,
        minimum=0,
    )
    augmentation: str | None = option(
        None,
        "Augmentation of appendix E (default: standard: crop, flip, colours, lighting).",
        group=_DATA,
        choices=IMAGENET_AUGMENTATIONS,
    )
    normalization: str = option(
        "mean",
        "Mean subtraction, or division by the channels' stds too.",
        group=_DATA,
        choices=IMAGENET_NORMALIZATIONS,
    )
    model: str = option(
        "wrn18_1_5",
        "Architecture.",
        group=TRAINING_GROUP,
        choices=ARCHITECTURES,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop_size > self.image_size:
            raise ValueError(
                f"`--crop-size` should be at most `--image-size`, {self.image_size}. Received: "
                f"{self.crop_size}"
            )
        if self.image_folder is not None and (self.manual_dir or self.data_dir):
            raise ValueError(
                "`--image-folder` excludes `--manual-dir` and `--data-dir`. Leave one or the other "
                "out."
            )

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
    """A `ImageNetConfig` with nothing left to the recipe: what the run folder records."""

    augmentation: str = required(ImageNetConfig, "augmentation")


ImageNetConfig.resolved_class = ResolvedImageNetConfig
