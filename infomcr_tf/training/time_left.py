"""`TimeLeft`: says at the beginning of a run how long it will take."""

import time
from typing import Any

import keras

from infomcr_tf.progress import duration

# Long enough for the steps to have their usual speed; an epoch may take hours.
_SECONDS = 20.0


class TimeLeft(keras.callbacks.Callback):
    """Prints one line after 20 seconds of steps or the first epoch, whichever is first.

    The first step of the process traces the graph, which the others do not: the estimate leaves it
    out. A run that stops early takes less, one whose penalty is still off takes more.

    Args:
        epochs: of the whole run.
        regularized_later: whether a penalty will be switched on that is off in the first epoch.
    """

    def __init__(self, epochs: int, *, regularized_later: bool) -> None:
        super().__init__()
        self._epochs = epochs
        self._later = regularized_later
        self._epoch = 0
        self._first_step: float | None = None
        self._steps = 0
        self._said = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remembers the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the steps after the first, and prints the line where they take long."""
        if self._said:
            return
        if self._first_step is None:
            self._first_step = time.monotonic()
            return
        self._steps += 1
        of_epoch = (self.params or {}).get("steps")
        if of_epoch and time.monotonic() - self._first_step >= _SECONDS:
            self._say((self._epochs - self._epoch) * of_epoch - batch - 1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Prints the line after a first epoch that was short."""
        if not self._said and self._steps:
            of_epoch = (self.params or {}).get("steps") or self._steps + 1
            self._say((self._epochs - epoch - 1) * of_epoch)

    def _say(self, left: int) -> None:
        self._said = True
        if left <= 0 or self._first_step is None:
            return
        seconds = (time.monotonic() - self._first_step) / self._steps * left
        text = f"about {duration(seconds)} for the other {left:,} steps"
        if self._later:
            text += ", more from when the penalty acts"
        # On a line of its own, also where a progress bar stands.
        print(f"\n{text}", flush=True)
