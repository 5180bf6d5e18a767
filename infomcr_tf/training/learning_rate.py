"""Learning-rate schedules, as callbacks."""

from typing import Any

import keras

from infomcr_tf.models.recipes import Recipe

LEARNING_RATE_SCHEDULES = ("recipe", "plateau", "cosine", "constant")


class Plateau(keras.callbacks.ReduceLROnPlateau):
    """Keras' `ReduceLROnPlateau` that an interrupted run can go on with."""

    _STATE = ("best", "wait", "cooldown_counter")

    def get_state(self) -> dict[str, Any]:
        """What it remembers, as JSON values."""
        values = {name: getattr(self, name) for name in self._STATE}
        # Before the first epoch has ended, some versions of Keras have no best value yet.
        return {name: None if value is None else float(value) for name, value in values.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from `get_state`'s answer; call it after `on_train_begin`."""
        for name in self._STATE:
            setattr(self, name, state[name])


def drop_epochs(recipe: Recipe, epochs: int) -> list[tuple[int, float]]:
    """The recipe's drops for a training of `epochs` epochs: pairs of (first epoch, factor)."""
    return [(max(1, round(fraction * epochs)), factor) for fraction, factor in recipe.drops]


def learning_rate_callback(
    schedule: str, *, recipe: Recipe, learning_rate: float, epochs: int, patience: int
) -> keras.callbacks.Callback | None:
    """The callback that sets the learning rate at the beginning (`plateau`: at the end) of epochs.

    Args:
        schedule: one of `LEARNING_RATE_SCHEDULES`. "recipe": the architecture's own drops, at the
            same fractions of the training; "plateau": divided by 10 whenever the training loss has
            not fallen for `patience` epochs (section 7.1); "cosine": half a cosine down to 0;
            "constant": none.
        recipe: of the architecture.
        learning_rate: the initial one.
        epochs: of the training.
        patience: of "plateau".

    Returns:
        A callback, or None for "constant".
    """
    if schedule == "constant":
        return None
    if schedule == "plateau":
        return Plateau(monitor="loss", factor=0.1, patience=patience, min_lr=learning_rate * 1e-4)
    if schedule == "cosine":
        decay = keras.optimizers.schedules.CosineDecay(learning_rate, decay_steps=epochs)
        return keras.callbacks.LearningRateScheduler(lambda epoch, _: float(decay(epoch)))

    def at(epoch: int, _: float) -> float:
        rate = learning_rate
        for first, factor in drop_epochs(recipe, epochs):
            rate *= factor if epoch >= first else 1.0
        return rate

    return keras.callbacks.LearningRateScheduler(at)
