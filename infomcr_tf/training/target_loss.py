"""Stopping at a stated training loss, so that minima are compared at the same one."""

from collections.abc import Callable
from typing import Any

import keras


class TargetLoss(keras.callbacks.Callback):
    """Ends the training after the first epoch at whose end the training loss is low enough.

    The loss is that of the network as it would be saved, on the images it is trained on (with a
    confusion set), un-augmented, without label smoothing, weight decay and penalty. An epoch's
    running mean is not: its batches were augmented, normalised by themselves and seen by weights
    that have changed since. Jiang et al. (2020), section 4, stop at a fixed cross-entropy too.

    Args:
        reached: whether the loss of the weights as they are is low enough.
    """

    def __init__(self, reached: Callable[[], bool]) -> None:
        super().__init__()
        self._reached = reached

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops, if the level is reached."""
        if self._reached():
            self.model.stop_training = True
