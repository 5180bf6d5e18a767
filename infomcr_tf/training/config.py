"""The configuration of a training run: everything that is needed to repeat it."""

import dataclasses

from infomcr_tf.data import AUGMENTATIONS, DATASETS, NORMALIZATIONS
from infomcr_tf.models import ARCHITECTURES
from infomcr_tf.regularizer import DATA_TERMS, SCHEDULES
from infomcr_tf.training.learning_rate import LEARNING_RATE_SCHEDULES, drop_epochs
from infomcr_tf.training.options import Options, option
from infomcr_tf.training.recipes import RECIPES, Recipe

_DATA = "data"
_TRAINING = "model and optimisation (default: the architecture's own recipe)"
_PENALTY = "regulariser (section 6, Algorithm 1)"
_RUN = "run"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Options):
    """What a training run depends on; None stands for the recipe's value.

    The fields' own descriptions are what `train_cifar.py --help` prints.

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

    model: str = option(
        "resnet20", "Architecture.", group=_TRAINING, type=str, choices=tuple(ARCHITECTURES)
    )
    epochs: int | None = option(
        None, "Passes over the training images.", group=_TRAINING, type=int, minimum=1
    )
    batch_size: int | None = option(
        None, "Images in a batch, over all devices.", group=_TRAINING, type=int, minimum=1
    )
    learning_rate: float | None = option(
        None, "Initial learning rate of SGD.", group=_TRAINING, type=float, above=0
    )
    schedule: str = option(
        "recipe",
        "How the learning rate falls.",
        group=_TRAINING,
        type=str,
        choices=LEARNING_RATE_SCHEDULES,
    )
    patience: int = option(
        10,
        "Epochs without a lower training loss before the plateau schedule divides by 10.",
        group=_TRAINING,
        type=int,
        minimum=1,
    )
    weight_decay: float | None = option(
        None,
        "wd of (wd/2)||w||^2 over all trainable weights.",
        group=_TRAINING,
        type=float,
        minimum=0,
    )
    momentum: float | None = option(
        None, "Momentum of SGD.", group=_TRAINING, type=float, minimum=0, below=1
    )
    nesterov: bool | None = option(None, "Nesterov momentum.", group=_TRAINING, type=bool)
    label_smoothing: float = option(
        0.0,
        "Label smoothing of the training loss.",
        group=_TRAINING,
        type=float,
        minimum=0,
        below=1,
    )

    regularize: str = option(
        "after-first-drop",
        "When the penalty is on; 011 etc.: in which of the stages between "
        "drops of the learning rate.",
        group=_PENALTY,
        type=str,
        choices=SCHEDULES,
    )
    alpha: float = option(
        1e-4, "Length factor of the finite difference.", group=_PENALTY, type=float, above=0
    )
    beta: float = option(10.0, "Weight of the penalty.", group=_PENALTY, type=float, minimum=0)
    num_sub_batches: int = option(
        8, "M, sub-batches of a batch, over all devices.", group=_PENALTY, type=int, minimum=1
    )
    data_term: str = option(
        "auto",
        "Whether L(B, w) is one pass over the batch or the mean over the sub-batches.",
        group=_PENALTY,
        type=str,
        choices=DATA_TERMS,
    )

    seed: int = option(
        0, "Of initialisation, subset, order and augmentation.", group=_RUN, type=int, minimum=0
    )
    run_dir: str | None = option(
        None,
        "Folder of the run (default: runs/DATASET-MODEL-REGULARIZE-seedSEED). Where it holds "
        "an unfinished run of the same options, that goes on.",
        group=_RUN,
        type=str,
    )
    gpus: int | None = option(
        None,
        "GPUs to train on, 0 for the CPU (default: one if there is one).",
        group=_RUN,
        type=int,
        minimum=0,
    )
    virtual_devices: int | None = option(
        None, "Train on this many logical CPU devices, to try out several replicas.", group=_RUN,
        type=int, minimum=1,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus and self.virtual_devices:
            raise ValueError(
                "`--gpus` and `--virtual-devices` exclude each other. Received: "
                f"{self.gpus} and {self.virtual_devices}. Leave one out."
            )
        if self.nesterov and self.momentum == 0:
            raise ValueError(
                "`--nesterov` needs `--momentum` > 0. Received: 0. Pass --no-nesterov."
            )
        if self.schedule == "constant" and self.regularize == "after-first-drop":
            raise ValueError(
                "`--regularize` after-first-drop never starts with `--schedule` constant. Pass "
                "--regularize always or never, or another schedule."
            )

    @property
    def recipe(self) -> Recipe:
        """The architecture's own recipe."""
        return RECIPES[self.model]

    def resolve(self, num_images: int) -> "TrainConfig":
        """Fills in what is left to the recipe.

        Args:
            num_images: training images including the confusion set.

        Returns:
            A configuration in which only `data_dir`, `train_size`, `gpus` and `virtual_devices` may
            be None.

        Raises:
            ValueError: if a batch is larger than the training set or smaller than M.
        """
        recipe = self.recipe
        batch_size = self.batch_size or recipe.batch_size
        if batch_size > num_images:
            raise ValueError(
                f"`--batch-size` should be at most the number of training images, {num_images}. "
                f"Received: {batch_size}. Pass a smaller --batch-size."
            )
        if self.regularize != "never" and batch_size < self.num_sub_batches:
            raise ValueError(
                "`--batch-size` should be at least `--num-sub-batches`. Received: "
                f"{batch_size} < {self.num_sub_batches}. Pass a larger batch or fewer sub-batches."
            )
        augmentation = "no-aug" if self.dataset == "digits" else recipe.augmentation
        values = {
            "batch_size": batch_size,
            "epochs": recipe.num_epochs(num_images // batch_size),
            "learning_rate": recipe.learning_rate,
            "weight_decay": recipe.weight_decay,
            "momentum": recipe.momentum,
            "nesterov": recipe.nesterov and self.momentum != 0,
            "augmentation": augmentation,
            "run_dir": f"runs/{self.dataset}-{self.model}-{self.regularize}-seed{self.seed}",
        }
        values = {name: value for name, value in values.items() if getattr(self, name) is None}
        config = dataclasses.replace(self, **values)
        config._check_penalty_starts()
        return config

    def _check_penalty_starts(self) -> None:
        first = drop_epochs(self.recipe, self.epochs)[0][0]
        waits = self.schedule == "recipe" and self.regularize == "after-first-drop"
        if waits and first >= self.epochs:
            raise ValueError(
                f"`--epochs` should be at least {first + 1} for --regularize after-first-drop: the "
                f"learning rate first falls after epoch {first}. Received: {self.epochs}. Pass "
                "more epochs or --regularize always."
            )
