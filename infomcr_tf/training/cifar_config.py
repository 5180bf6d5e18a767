"""The configuration of a training run on CIFAR or the digits."""

import dataclasses

from infomcr_tf.command_line.options import option, required
from infomcr_tf.data import AUGMENTATIONS, DATASETS, NORMALIZATIONS
from infomcr_tf.training.config import DATA_GROUP, TrainConfig
from infomcr_tf.training.resolved_config import ResolvedConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class CifarConfig(TrainConfig):
    """What a run of `train_cifar.py` is asked for; None stands for the recipe's value.

    Raises:
        ValueError: if a value is out of range, or two values exclude each other.
    """

    dataset: str = option("cifar10", "Data set.", group=DATA_GROUP, choices=DATASETS)
    confusion_size: int = option(
        0, "Further training images with random labels (Scenario I).", group=DATA_GROUP
    )
    nested_sets: bool = option(
        True,
        "Let runs with sets of different sizes share their images; otherwise every size has its "
        "own.",
        group=DATA_GROUP,
    )
    augmentation: str | None = option(
        None,
        "Augmentation of section 7.1 (default: 4-crop-f; digits: no-aug).",
        group=DATA_GROUP,
        choices=AUGMENTATIONS,
    )
    normalization: str = option(
        "computed",
        "Channel means and stds: of the training images, or CIFAR's constants.",
        group=DATA_GROUP,
        choices=NORMALIZATIONS,
    )

    @property
    def default_name(self) -> str:
        """Name of the data set, in the run folder's default."""
        return self.dataset

    @property
    def default_augmentation(self) -> str:
        """The data set's own, else the recipe's."""
        return DATASETS[self.dataset].augmentation or self.recipe.augmentation


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResolvedCifarConfig(ResolvedConfig, CifarConfig):
    """A `CifarConfig` with nothing left to the recipe: what the run folder records."""

    augmentation: str = required(CifarConfig, "augmentation")


CifarConfig.resolved_class = ResolvedCifarConfig
