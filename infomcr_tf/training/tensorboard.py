"""TensorBoard's log of a run that may be killed, and on a disk that may be full."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


class TensorBoard(keras.callbacks.TensorBoard):
    """Keras' callback; an epoch's values are on the disk when the epoch ends.

    Put it before `Checkpoint`: then no epoch is missing. An epoch that is repeated has the same
    step and values again. Where the log cannot be written there is a warning, and the training
    continues without it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._failed = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Opens the log."""
        self._try(super().on_train_begin, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the logs."""
        self._try(super().on_epoch_end, epoch, logs)
        for writer in self._writers.values():
            self._try(writer.flush)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Closes the log."""
        self._try(super().on_train_end, logs)

    def _try(self, action: Callable[..., None], *args: Any) -> None:
        if self._failed:
            return
        try:
            action(*args)
        except (tf.errors.OpError, OSError) as error:
            self._failed = True
            reason = " ".join(str(error).split())[:200]
            warnings.warn(
                f"TensorBoard's log in {self.log_dir} cannot be written ({reason}); the training "
                "continues without it.",
                stacklevel=2,
            )
