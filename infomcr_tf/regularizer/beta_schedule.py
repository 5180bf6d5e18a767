"""When the penalty acts, and how strongly: schedules for beta."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras

from infomcr_tf.arguments import check_argument, check_choice, check_number
from infomcr_tf.registry import Registry
from infomcr_tf.regularizer.replicas import read

# A learning rate is stored in float32: a smaller relative change than this is no drop.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class BetaCurve:
    """What part of `beta` acts at a point of the training.

    Attributes:
        factor: from the stage (how often the learning rate has fallen, from 0) and the progress (0
            in the first epoch, 1 in the last) to a factor on `beta`.
        by_stage: whether it depends on the stage; else on the progress alone.
    """

    factor: Callable[[int, float], float]
    by_stage: bool = False


SCHEDULES: Registry[BetaCurve] = Registry("schedule of beta")


def register_beta_schedule(
    name: str, factor: Callable[[int, float], float], *, by_stage: bool = False
) -> BetaCurve:
    """Makes `factor` a schedule that `BetaSchedule` and `--regularize` know; see `BetaCurve`.

    Example: `register_beta_schedule("second-half", lambda stage, progress: progress >= 0.5)`.

    Raises:
        ValueError: If the name is taken.
    """
    return SCHEDULES.register(name, BetaCurve(factor, by_stage))


def _stages(pattern: str) -> Callable[[int, float], float]:
    """One digit per stage of the learning rate; the last digit holds for all later stages."""
    return lambda stage, _progress: float(pattern[min(stage, len(pattern) - 1)])


_PATTERNS = {"never": "0", "always": "1", "after-first-drop": "011"}
for _name in (*_PATTERNS, "001", "010", "011", "100", "101", "110", "111"):
    register_beta_schedule(_name, _stages(_PATTERNS.get(_name, _name)), by_stage=True)
register_beta_schedule("linear", lambda _stage, progress: progress)
register_beta_schedule("cosine", lambda _stage, progress: (1 - math.cos(math.pi * progress)) / 2)


class BetaSchedule(keras.callbacks.Callback):
    """Sets `model.beta` while a `FisherRegularizedModel` is trained, and logs it.

    Stages are separated by drops of the learning rate, whatever makes them
    (`LearningRateScheduler`, `ReduceLROnPlateau`, a `LearningRateSchedule` in the optimizer). The
    first stage lasts as long as the learning rate rises or stays, so a warm-up belongs to it;
    every later fall below the stage's level begins the next one. Under a decay that falls at every
    step, the first stage ends at once.

    What beta is, by `schedule`:

    - "never", "always": 0, `beta`.
    - "after-first-drop": 0 in the first stage, `beta` afterwards (section 7.2.1).
    - Three digits, e.g. "011": one digit per stage, 1 for `beta`, 0 for 0; the last digit stays.
    - "linear", "cosine": from 0 in the first epoch to `beta` in the last, in proportion to
      `t` and to `(1 - cos(pi t)) / 2`.

    The learning rate is read at the beginning of every epoch and, where the optimizer holds a
    `LearningRateSchedule`, of every batch. In `fit(callbacks=[...])` put this after callbacks that
    set the learning rate at the beginning of an epoch (`LearningRateScheduler`) and before those
    that read the logs (`CSVLogger`, `TensorBoard`): it adds `beta` and `learning_rate` to them.

    Args:
        schedule: One of `SCHEDULES`.
        beta: The full value; `None` for the one that the model was constructed with.
        initial_learning_rate: The learning rate before any drop, for training that continues
            without `set_state`. Leave it `None` otherwise: the highest learning rate seen so far
            is used.

    Raises:
        ValueError: For an unknown schedule, a negative `beta`, or `initial_learning_rate <= 0`.
    """

    def __init__(
        self,
        schedule: str = "after-first-drop",
        beta: float | None = None,
        initial_learning_rate: float | None = None,
    ) -> None:
        super().__init__()
        check_choice("schedule", schedule, SCHEDULES)
        self.schedule = schedule
        self.beta = None if beta is None else check_argument("beta", beta)
        self._stage = 0
        self._progress = 0.0
        self._level = 0.0
        self._learning_rate: float | None = None
        if initial_learning_rate is not None:
            self._level = check_number("initial_learning_rate", initial_learning_rate, above=0)

    def set_model(self, model: keras.Model) -> None:
        """Sets the model, which must have a `beta`."""
        if not hasattr(model, "initial_beta"):
            raise TypeError(
                f"`BetaSchedule` needs a `FisherRegularizedModel`. Received: {type(model).__name__}"
            )
        super().set_model(model)

    def get_state(self) -> dict[str, Any]:
        """Returns what must be kept to resume an interrupted training, as plain JSON values."""
        return {"schedule": self.schedule, "stage": self._stage, "level": self._level}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes from a state returned by `get_state`.

        Raises:
            ValueError: If the state belongs to another schedule.
        """
        if state.get("schedule") != self.schedule:
            raise ValueError(
                f"`state` must come from a {self.schedule!r} schedule. Received: state={state}"
            )
        self._stage = int(state["stage"])
        self._level = float(state["level"])

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Reads the learning rate and sets beta."""
        self._learning_rate = None
        last = max(1, (self.params or {}).get("epochs", 1) - 1)
        self._progress = min(1.0, epoch / last)
        self._follow_learning_rate()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Follows a learning rate that changes within an epoch, and notes it."""
        schedule = getattr(self.model.optimizer, "_learning_rate", None)
        by_step = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule)
        if by_step and SCHEDULES[self.schedule].by_stage:
            self._follow_learning_rate()
        if by_step or self._learning_rate is None:
            self._learning_rate = read(self.model.optimizer.learning_rate)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds beta, and the learning rate of the epoch's last step, to the logs.

        `ReduceLROnPlateau` may have set that of the next epoch by now.
        """
        if logs is not None:
            logs["beta"] = read(self.model.beta)
            logs["learning_rate"] = self._learning_rate

    def _follow_learning_rate(self) -> None:
        learning_rate = read(self.model.optimizer.learning_rate)
        if learning_rate < self._level * (1 - _ROUNDING):
            self._stage += 1
            self._level = learning_rate
        elif self._stage == 0:
            self._level = max(self._level, learning_rate)
        factor = float(SCHEDULES[self.schedule].factor(self._stage, self._progress))
        full = self.model.initial_beta if self.beta is None else self.beta
        if read(self.model.beta) != full * factor:
            self.model.beta.assign(full * factor)
