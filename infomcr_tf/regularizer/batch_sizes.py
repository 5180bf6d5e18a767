"""Whether the batches of an epoch were large enough for M sub-batches."""

from typing import Any

import keras

from infomcr_tf.regularizer.replicas import read
from infomcr_tf.regularizer.sub_batches import too_small


class LargestBatch(keras.metrics.Metric):
    """The number of examples of the largest batch since the last reset."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(name="largest_batch", dtype="int32", **kwargs)
        self.largest = self.add_variable((), initializer="zeros", name="largest", dtype="int32")

    def update_state(self, examples: Any) -> None:
        """Records the number of examples of a batch."""
        self.largest.assign(keras.ops.maximum(self.largest, examples))

    def result(self) -> Any:
        """The largest number."""
        return keras.ops.convert_to_tensor(self.largest)


class CheckBatchSizes(keras.callbacks.Callback):
    """Ends training after an epoch in which every regularised batch had fewer than M examples.

    One such batch, as at the end of an epoch, is cut into single examples. Were all cut so, the
    penalty would not be the one that was asked for.

    Args:
        largest_batch: Updated in every regularised step.
    """

    def __init__(self, largest_batch: LargestBatch) -> None:
        super().__init__()
        self._largest_batch = largest_batch

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets the batches of an earlier training."""
        self._largest_batch.reset_state()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks the epoch's batches and forgets them."""
        largest = int(read(self._largest_batch.result()))
        self._largest_batch.reset_state()
        if 0 < largest < self.model.num_sub_batches:
            batches = f"an epoch of batches of at most {largest}"
            raise ValueError(too_small(batches, self.model.num_sub_batches))
