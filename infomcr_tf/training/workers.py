"""The processes that train one model together under `TF_CONFIG`; usually there is but one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import tensorflow as tf

from infomcr_tf.data import Shard

Result = TypeVar("Result")


class Workers:
    """Which worker this process is, and what the workers tell each other.

    Every method but the properties must be called by all workers in the same order.

    Args:
        strategy: of the run.

    Attributes:
        shard: this worker's shard of every batch.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self.shard = Shard()
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            cluster = resolver.cluster_spec().as_dict()
            chiefs, workers = (len(cluster.get(role, ())) for role in ("chief", "worker"))
            before = chiefs if resolver.task_type == "worker" else 0
            self.shard = Shard(before + resolver.task_id, chiefs + workers)

    @property
    def several(self) -> bool:
        """Whether there is more than this process."""
        return self.shard.count > 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run folder and prints."""
        return self.shard.index == 0

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum of all workers' `values`, which have one shape and dtype."""
        if not self.several:
            return values
        local = self._strategy.num_replicas_in_sync // self.shard.count
        first = self.shard.index * local  # one replica contributes the worker's values

        def of_replica(context: tf.distribute.ValueContext) -> tf.Tensor:
            mine = context.replica_id_in_sync_group == first
            return tf.constant(values if mine else np.zeros_like(values))

        each = self._strategy.experimental_distribute_values_from_function(of_replica)
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, each, axis=None).numpy()

    def from_chief(self, content: bytes | None) -> bytes | None:
        """The chief's `content`, whatever the other workers have."""
        if not self.several:
            return content
        own = content if self.is_chief else None
        own_length = 0 if own is None else len(own) + 1
        length = int(self.sum(np.array(own_length, np.int64))) - 1
        if length < 0:
            return None
        words = np.zeros(-(-length // 4), np.int32)
        if own is not None:
            words.view(np.uint8)[:length] = np.frombuffer(own, np.uint8)
        return self.sum(words).tobytes()[:length]

    def chief_first(self, task: Callable[[], Result]) -> Result:
        """Runs `task` in the chief, then in the others, which find there what it has left."""
        if self.is_chief:
            result = task()
        self.sum(np.zeros(1, np.int32))
        return result if self.is_chief else task()
