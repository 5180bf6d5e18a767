"""The configuration of a training run: everything that is needed to repeat it."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from infomcr_tf.command_line.options import Options, option
from infomcr_tf.data.order import check_batch_fits
from infomcr_tf.models import ARCHITECTURES, Recipe
from infomcr_tf.regularizer import DATA_TERMS, SCHEDULES
from infomcr_tf.regularizer.penalty import ESTIMATORS
from infomcr_tf.regularizer.replicas import check_divisible
from infomcr_tf.regularizer.requirements import is_precise_enough
from infomcr_tf.regularizer.sub_batches import check_batch_size
from infomcr_tf.training.interval import Interval
from infomcr_tf.training.learning_rate import LEARNING_RATE_SCHEDULES, drop_epochs
from infomcr_tf.training.nonfinite import ON_NONFINITE
from infomcr_tf.training.stopping import STOPPING_RULES

if TYPE_CHECKING:
    from infomcr_tf.training.resolved_config import ResolvedConfig

DATA_GROUP = "data"
TRAINING_GROUP = "model and optimisation (default: the architecture's own recipe)"
_PENALTY = "regulariser (section 6, Algorithm 1)"
_RUN = "run"

Training = TypeVar("Training", bound="TrainConfig")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Options):
    """What every training run is asked for whatever its data; None stands for the recipe's value.

    The fields' own descriptions are what `--help` prints.

    Raises:
        ValueError: if a value is out of range, or two values exclude each other.
    """

    resolved_class: ClassVar[Any]  # the `ResolvedConfig` of the same kind of data

    data_dir: str | None = option(
        None,
        "Folder of the data sets prepared by tensorflow-datasets (default: its own, "
        "~/tensorflow_datasets).",
        group=DATA_GROUP,
        changeable=True,
        identifies=False,
    )
    train_size: int | None = option(
        None,
        "Random subset of the training images (default: all that the validation set leaves).",
        group=DATA_GROUP,
    )
    validation_size: int = option(
        0, "Training images held out, to choose beta with (the paper: 5000).", group=DATA_GROUP
    )

    model: str = option("resnet20", "Architecture.", group=TRAINING_GROUP, choices=ARCHITECTURES)
    epochs: int | None = option(
        None, "Passes over the training images.", group=TRAINING_GROUP, minimum=1
    )
    batch_size: int | None = option(
        None, "Images in a batch, over all devices.", group=TRAINING_GROUP
    )
    learning_rate: float | None = option(
        None, "Initial learning rate of SGD.", group=TRAINING_GROUP, above=0
    )
    schedule: str = option(
        "recipe",
        "How the learning rate falls.",
        group=TRAINING_GROUP,
        choices=LEARNING_RATE_SCHEDULES,
    )
    patience: int = option(
        10,
        "Epochs without a lower cross-entropy before the plateau schedule divides by 10.",
        group=TRAINING_GROUP,
        minimum=1,
    )
    weight_decay: float | None = option(
        None, "wd of (wd/2)||w||^2 over all trainable weights.", group=TRAINING_GROUP
    )
    momentum: float | None = option(
        None, "Momentum of SGD.", group=TRAINING_GROUP, minimum=0, below=1
    )
    nesterov: bool | None = option(None, "Nesterov momentum.", group=TRAINING_GROUP)
    label_smoothing: float = option(
        0.0, "Label smoothing of the training loss.", group=TRAINING_GROUP, minimum=0, below=1
    )
    target_loss: float | None = option(
        None,
        "Stop after the first epoch at whose end the cross-entropy of the training images "
        "(un-augmented, without the confusion set and weight decay: those a minimum is measured "
        "on) is at most this (default: train for all epochs).",
        group=TRAINING_GROUP,
        above=0,
    )
    keep_at: str | None = option(
        None,
        "Other levels of that cross-entropy, such as 0.1,0.01: after the first epoch at each the "
        "network is kept, in a run folder of its own, RUN_DIR-at-0.01, as if the training had "
        "stopped there.",
        group=TRAINING_GROUP,
    )
    stop: str = option(
        "last-epoch",
        "Rule that may end the training earlier; zero-error: after the first epoch in which every "
        "training image was classified correctly.",
        group=TRAINING_GROUP,
        choices=STOPPING_RULES,
        identifies="unless default",
    )
    regularize: str = option(
        "after-first-drop",
        "When the penalty is on; 011 etc.: in which of the stages between "
        "drops of the learning rate.",
        group=_PENALTY,
        choices=SCHEDULES,
    )
    alpha: float = option(1e-4, "Length factor of the finite difference.", group=_PENALTY)
    beta: float = option(10.0, "Weight of the penalty.", group=_PENALTY)
    num_sub_batches: int = option(8, "M, sub-batches of a batch, over all devices.", group=_PENALTY)
    data_term: str = option(
        "auto",
        "Whether L(B, w) is one pass over the batch or the mean over the sub-batches.",
        group=_PENALTY,
        choices=DATA_TERMS,
    )
    estimator: str = option(
        "finite_difference",
        "How the penalty's gradient is computed: Algorithm 1, or double differentiation (another "
        "regulariser on ReLU networks).",
        group=_PENALTY,
        choices=ESTIMATORS,
    )
    allow_tf32: bool = option(
        False,
        "Keep TensorFloat-32 on while the penalty acts; its 10 bits drown the finite difference.",
        group=_PENALTY,
    )
    seed: int = option(
        0, "Of initialisation, subset, order and augmentation.", group=_RUN, identifies=False
    )
    run_dir: str | None = option(
        None,
        "Folder of the run (default: runs/DATASET-MODEL-REGULARIZE-seedSEED). Where it holds "
        "an unfinished run of the same options, that is resumed.",
        group=_RUN,
        changeable=True,
        identifies=False,
    )
    save_every: str = option(
        "300s",
        "Save the state of the run, besides at the end of each epoch, after so many steps (200) or "
        "seconds (300s) of training. Several workers save at the end of epochs only.",
        group=_RUN,
        changeable=True,
        identifies=False,
    )
    on_nonfinite: str = option(
        "stop",
        "What to do when the loss, the gradient or the penalty is NaN or infinite: stop, or skip "
        "the step as if its batch had not been there.",
        group=_RUN,
        choices=ON_NONFINITE,
        changeable=True,
        identifies=False,
    )
    deterministic: bool = option(
        False,
        "Use only operations that give the same bits every time, on GPUs too; slower.",
        group=_RUN,
        identifies=False,
    )
    gpus: int | None = option(
        None,
        "GPUs to train on, 0 for the CPU (default: one if there is one). Under TF_CONFIG of every "
        "worker (default: all).",
        group=_RUN,
        minimum=0,
        identifies=False,
    )
    virtual_devices: int | None = option(
        None,
        "Train on this many logical CPU devices, to try out several replicas.",
        group=_RUN,
        minimum=1,
        identifies=False,
    )
    mixed_precision: bool = option(
        False,
        "Compute in bfloat16, with float32 weights: without the penalty, or with --estimator "
        "hessian_vector.",
        group=_RUN,
    )
    jit_compile: bool = option(
        False, "Compile the training step with XLA; on one device.", group=_RUN
    )

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
        Interval(self.save_every)
        self._check_kept_losses()
        self._check_precision()

    def _check_precision(self) -> None:
        needed = self.mixed_precision and self.regularize != "never"
        if needed and not is_precise_enough("bfloat16", self.estimator):
            raise ValueError(
                "`--mixed-precision` cannot be used with the finite difference, whose step alpha * "
                "g bfloat16 rounds to nothing. Pass --estimator hessian_vector or --regularize "
                "never, or leave it out."
            )

    @property
    def kept_losses(self) -> tuple[float, ...]:
        """The levels of `keep_at`."""
        return () if self.keep_at is None else tuple(map(float, self.keep_at.split(",")))

    def kept_at(self: Training, level: float) -> Training:
        """The configuration of the run that ends at one of `kept_losses`."""
        run_dir = f"{self.run_dir or self.default_run_dir}-at-{level:g}"
        return dataclasses.replace(self, target_loss=level, keep_at=None, run_dir=run_dir)

    def _check_kept_losses(self) -> None:
        lowest = self.target_loss or 0.0
        try:
            fits = all(lowest < level < math.inf for level in self.kept_losses)
            fits &= len({f"{level:g}" for level in self.kept_losses}) == len(self.kept_losses)
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                "`--keep-at` must be different numbers above `--target-loss`, such as 0.1,0.01. "
                f"Received: {self.keep_at!r}"
            )

    @property
    def default_name(self) -> str:
        """Name of the data set, in the run folder's default."""
        raise NotImplementedError

    @property
    def default_augmentation(self) -> str:
        """The augmentation where none is given."""
        raise NotImplementedError

    @property
    def recipe(self) -> Recipe:
        """The architecture's own recipe."""
        return ARCHITECTURES[self.model].recipe

    def check(self, num_replicas: int, *, num_workers: int = 1) -> None:
        """Checks what does not depend on the data.

        Args:
            num_replicas: devices to train on, over all workers.
            num_workers: processes that train together.

        Raises:
            ValueError: if a batch cannot be shared out, the penalty would never start, XLA is asked
                for on several devices, or several workers should skip steps.
        """
        if self.on_nonfinite == "skip" and num_workers > 1:
            raise ValueError(
                f"`--on-nonfinite` skip works in one process. Received: {num_workers} workers. "
                "Leave it out."
            )
        batch_size = self.batch_size or self.recipe.batch_size
        if batch_size % num_replicas:
            raise ValueError(
                f"`--batch-size` must be divisible by the number of devices, {num_replicas}. "
                f"Received: {batch_size}"
            )
        if self.jit_compile and num_replicas > 1:
            raise ValueError(
                f"`--jit-compile` works on one device. Received: {num_replicas} devices. Leave it "
                "out."
            )
        if self.regularize == "never":
            return
        with self.named_as_flags():
            check_batch_size(batch_size, self.num_sub_batches)
            check_divisible(self.num_sub_batches, num_replicas)
        self._check_penalty_starts()

    def resolve(self, num_images: int) -> ResolvedConfig:
        """Fills in what is left to the recipe.

        Args:
            num_images: in an epoch, including a confusion set.

        Returns:
            A configuration in which only `train_size`, limits, locations and devices may be None.

        Raises:
            ValueError: if a batch is larger than the training set.
        """
        recipe = self.recipe
        batch_size = self.batch_size or recipe.batch_size
        with self.named_as_flags():
            check_batch_fits(batch_size, num_images)
        values = {
            "batch_size": batch_size,
            "epochs": recipe.num_epochs(num_images // batch_size),
            "learning_rate": recipe.learning_rate,
            "weight_decay": recipe.weight_decay,
            "momentum": recipe.momentum,
            "nesterov": recipe.nesterov and self.momentum != 0,
            "augmentation": self.default_augmentation,
            "run_dir": self.default_run_dir,
        }
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        filled = {name: value for name, value in values.items() if given[name] is None}
        return self.resolved_class(**given | filled)

    @property
    def default_run_dir(self) -> str:
        """The run folder where none is given."""
        return f"runs/{self.default_name}-{self.model}-{self.regularize}-seed{self.seed}"

    def _check_penalty_starts(self) -> None:
        if self.epochs is None:
            return  # the recipe's own length
        first = drop_epochs(self.recipe, self.epochs)[0][0]
        waits = self.schedule == "recipe" and self.regularize == "after-first-drop"
        if waits and first >= self.epochs:
            raise ValueError(
                f"`--epochs` must be at least {first + 1} for --regularize after-first-drop: the "
                f"learning rate first falls after epoch {first}. Received: {self.epochs}. Pass "
                "more epochs or --regularize always."
            )
