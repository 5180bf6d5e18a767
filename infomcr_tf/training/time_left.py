"""`TimeLeft`: says after the first epoch how long the others will take."""

import time
from typing import Any

import keras

from infomcr_tf.progress import duration


class TimeLeft(keras.callbacks.Callback):
    """Prints one line when the first epoch that this process begins has ended.

    Its first step traces the graph, which the others do not: the estimate leaves it out. A run that
    stops early takes less, one whose penalty is still off takes more.

    Args:
        epochs: of the whole run.
        regularized_later: whether a penalty will be switched on that is off in the first epoch.
    """

    def __init__(self, epochs: int, *, regularized_later: bool) -> None:
        super().__init__()
        self._epochs = epochs
        self._later = regularized_later
        self._first_step: float | None = None
        self._steps = 0
        self._said = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the steps after the first."""
        if self._first_step is None:
            self._first_step = time.monotonic()
        else:
            self._steps += 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Says it once."""
        left = self._epochs - epoch - 1
        if self._said or left <= 0 or not self._steps or self._first_step is None:
            return
        self._said = True
        seconds = (time.monotonic() - self._first_step) / self._steps * (self._steps + 1) * left
        text = f"about {duration(seconds)} for the other {left} epochs"
        if self._later:
            text += ", more from when the penalty acts"
        print(text, flush=True)
