"""Rules that may end a training before its last epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from infomcr_tf.registry import Registry

# Name -> from the history, one mapping of logs per epoch, to whether the training may end. A rule
# sees the whole history, so a resumed training stops where an uninterrupted one does.
STOPPING_RULES: Registry[Callable[[Sequence[Mapping[str, float]]], bool]] = Registry(
    "stopping rule"
)
STOPPING_RULES.register("last-epoch", lambda _history: False)
STOPPING_RULES.register("zero-error", lambda history: history[-1]["accuracy"] >= 1)


class StoppingRule(keras.callbacks.Callback):
    """Ends a training after the first epoch at which a rule says so; put it after `Checkpoint`.

    Args:
        name: one of `STOPPING_RULES`.
        history: gives the logs of the epochs that have ended, one mapping each.
    """

    def __init__(self, name: str, history: Callable[[], Sequence[Mapping[str, float]]]) -> None:
        super().__init__()
        self._rule = STOPPING_RULES[name]
        self._history = history

    def reached(self) -> bool:
        """Whether the rule says so after the epochs there are."""
        history = self._history()
        return bool(history) and bool(self._rule(history))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops, if the rule says so."""
        if self.reached():
            self.model.stop_training = True
