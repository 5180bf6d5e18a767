"""Stopping at a stated training loss, so that minima are compared at the same one."""

from typing import Any

import keras

CROSS_ENTROPY = "cross_entropy"


class TargetLoss(keras.callbacks.Callback):
    """Ends the training after the first epoch whose mean cross-entropy is at most `target`.

    The cross-entropy is the metric of that name: the mean over the epoch's batches, as they were
    trained on (augmented, with a confusion set, BatchNorm in training mode), without label
    smoothing, weight decay and penalty. Jiang et al. (2020), section 4, stop at a fixed
    cross-entropy for the same reason.

    Args:
        target: the level, in nats.
    """

    def __init__(self, target: float) -> None:
        super().__init__()
        self._target = target

    def reached(self, logs: dict[str, Any] | None) -> bool:
        """Whether an epoch with these logs is the last."""
        return bool(logs) and float(logs[CROSS_ENTROPY]) <= self._target

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops, if the level is reached."""
        if self.reached(logs):
            self.model.stop_training = True
