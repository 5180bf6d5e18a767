"""The configuration of a training run on CIFAR or the digits."""

import dataclasses

from infomcr_tf.command_line.options import option
from infomcr_tf.data import AUGMENTATIONS, DATASETS, NORMALIZATIONS
from infomcr_tf.training.config import TrainConfig

_DATA = "data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CifarConfig(TrainConfig):
    """What a run of `train_cifar.py` depends on; None stands for the recipe's value.

    Raises:
        ValueError: if a value is out of range, or two values exclude each other.
    """

    dataset: str = option("cifar10", "Data set.", group=_DATA, type=str, choices=DATASETS)
    data_dir: str | None = option(
        None,
        "Folder of the data sets prepared by tensorflow-datasets.",
        group=_DATA,
        type=str,
    )
    train_size: int | None = option(
        None,
        "Random subset of the training images (default: all that the validation set leaves).",
        group=_DATA,
        type=int,
        minimum=1,
    )
    validation_size: int = option(
        0,
        "Training images held out; the paper chooses beta with 5000.",
        group=_DATA,
        type=int,
        minimum=0,
    )
    confusion_size: int = option(
        0,
        "Further training images with random labels (Scenario I).",
        group=_DATA,
        type=int,
        minimum=0,
    )
    nested_sets: bool = option(
        True,
        "Let runs with sets of different sizes share their images; otherwise every size has its "
        "own.",
        group=_DATA,
        type=bool,
    )
    augmentation: str | None = option(
        None,
        "Augmentation of section 7.1 (default: 4-crop-f; digits: no-aug).",
        group=_DATA,
        type=str,
        choices=AUGMENTATIONS,
    )
    normalization: str = option(
        "computed",
        "Channel means and deviations: of the training images, or CIFAR's constants.",
        group=_DATA,
        type=str,
        choices=NORMALIZATIONS,
    )

    @property
    def default_name(self) -> str:
        """Name of the data set, in the run folder's default."""
        return self.dataset

    @property
    def default_augmentation(self) -> str:
        """The recipe's; a mirrored digit would be another one."""
        return "no-aug" if self.dataset == "digits" else self.recipe.augmentation
