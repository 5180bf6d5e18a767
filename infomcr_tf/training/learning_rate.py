"""Learning-rate schedules, as callbacks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from infomcr_tf.models import Recipe
from infomcr_tf.registry import Registry
from infomcr_tf.regularizer.replicas import read


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a learning-rate schedule may depend on.

    Attributes:
        recipe: of the architecture.
        learning_rate: the initial one.
        epochs: of the training.
        patience: `--patience`.
    """

    recipe: Recipe
    learning_rate: float
    epochs: int
    patience: int


# Name -> from a plan to the callback that sets the learning rate.
LEARNING_RATE_SCHEDULES: Registry[Callable[[TrainingPlan], keras.callbacks.Callback]] = Registry(
    "learning-rate schedule"
)


# What section 7.1 leaves open about a plateau, besides its length.
PLATEAU_MIN_DELTA = 1e-4
PLATEAU_LOWEST = 1e-4


class Plateau(keras.callbacks.ReduceLROnPlateau):
    """Divides the learning rate by 10 where the training loss L(S, w) has stopped falling.

    The loss is the cross-entropy of the epoch's batches, without label smoothing, weight decay and
    penalty: a weight decay that still shrinks would hide a plateau. Keras' callback, but for two
    things: the rate falls at the beginning of the next epoch, so that what is logged at the end of
    an epoch is the rate it was trained with; and an interrupted training can be resumed.

    Args:
        learning_rate: the initial one; the rate stays at or above `PLATEAU_LOWEST` times this.
        patience: epochs without a loss lower than the best by `PLATEAU_MIN_DELTA`.
    """

    _REMEMBERED = ("best", "wait", "cooldown_counter", "ended_with")

    def __init__(self, learning_rate: float, patience: int) -> None:
        super().__init__(
            monitor="cross_entropy",
            mode="min",
            factor=0.1,
            patience=patience,
            min_delta=PLATEAU_MIN_DELTA,
            min_lr=PLATEAU_LOWEST * learning_rate,
        )
        self.ended_with: float | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Judges the epoch that has ended, if that has not been done."""
        ended_with, self.ended_with = self.ended_with, None
        if ended_with is not None:
            super().on_epoch_end(epoch - 1, {self.monitor: ended_with})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the epoch's loss and logs its learning rate."""
        assert logs is not None  # the training loop always passes logs
        self.ended_with = logs[self.monitor]
        logs["learning_rate"] = read(self.model.optimizer.learning_rate)

    def get_state(self) -> dict[str, Any]:
        """Returns what must be kept to resume, as JSON values."""
        values = {name: getattr(self, name) for name in self._REMEMBERED}
        # Before the first epoch has ended, there is no best value yet.
        return {name: None if value is None else float(value) for name, value in values.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes from what `get_state` returned; call it after `on_train_begin`."""
        for name in self._REMEMBERED:
            setattr(self, name, state[name])


def drop_epochs(recipe: Recipe, epochs: int) -> list[tuple[int, float]]:
    """The recipe's drops for a training of `epochs` epochs: pairs of (first epoch, factor)."""
    return [(max(1, round(fraction * epochs)), factor) for fraction, factor in recipe.drops]


def by_epoch(rate: Callable[[int], float]) -> keras.callbacks.Callback:
    """The callback that sets the learning rate to `rate(epoch)`, from epoch 0, and logs it."""
    return keras.callbacks.LearningRateScheduler(lambda epoch, _: float(rate(epoch)))


def _recipe(plan: TrainingPlan) -> keras.callbacks.Callback:
    """The architecture's own drops, at the same fractions of the training."""
    drops = drop_epochs(plan.recipe, plan.epochs)

    def rate(epoch: int) -> float:
        found = plan.learning_rate
        for first, factor in drops:
            found *= factor if epoch >= first else 1.0
        return found

    return by_epoch(rate)


def _plateau(plan: TrainingPlan) -> keras.callbacks.Callback:
    return Plateau(plan.learning_rate, plan.patience)


def _cosine(plan: TrainingPlan) -> keras.callbacks.Callback:
    """Half a cosine down to 0."""
    return by_epoch(keras.optimizers.schedules.CosineDecay(plan.learning_rate, plan.epochs))


def _constant(plan: TrainingPlan) -> keras.callbacks.Callback:
    return by_epoch(lambda _epoch: plan.learning_rate)


for _name, _schedule in {
    "recipe": _recipe,
    "plateau": _plateau,
    "cosine": _cosine,
    "constant": _constant,
}.items():
    LEARNING_RATE_SCHEDULES.register(_name, _schedule)
