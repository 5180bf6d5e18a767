"""Losses and errors of a run's network at its present weights, measured and written down."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.storage import replacing
from infomcr_tf.training.evaluation import evaluate, logits_function, loss_up_to
from infomcr_tf.training.run_data import RunData
from infomcr_tf.training.run_folder import RunFolder
from infomcr_tf.training.workers import Workers

_PARTS = ("train", "confusion", "validation", "test")


class Outcome:
    """Losses and errors of the trained weights on un-augmented images, in float32.

    Args:
        data: of the run.
        workers: who trains, each with a shard of the images.
        new_model: makes a float32 model that is neither compiled nor distributed.
        weights: the values of the trained weights as they are.
    """

    def __init__(
        self,
        data: RunData,
        workers: Workers,
        new_model: Callable[[], keras.Model],
        weights: Callable[[], list[np.ndarray]],
    ) -> None:
        self._data = data
        self._workers = workers
        self._new_model = new_model
        self._weights = weights

    @functools.cached_property
    def _copy(self) -> tuple[keras.Model, Callable[[tf.Tensor], tf.Tensor]]:
        model = self._new_model()
        return model, logits_function(model)

    def _now(self) -> tuple[keras.Model, Callable[[tf.Tensor], tf.Tensor]]:
        """A float32 copy of the network with its present weights, and its logits."""
        self._copy[0].set_weights(self._weights())
        return self._copy

    def _batches(self, part: str) -> tf.data.Dataset | None:
        return self._data.evaluation_batches(part, shard=self._workers.shard)

    def _evaluate(
        self, logits_of: Callable[[tf.Tensor], tf.Tensor], part: str, title: str | None = None
    ) -> dict[str, Any]:
        return evaluate(
            logits_of,
            self._batches(part),
            top_k=self._data.top_k,
            workers=self._workers,
            title=title,
        )

    def validation_logs(self) -> dict[str, float]:
        """What Keras' `validation_data` would log.

        Under a strategy Keras cannot: it averages the replicas' parts of the first batch, which may
        be of different sizes.
        """
        model, logits_of = self._now()
        found = self._evaluate(logits_of, "validation")
        decay = float(sum(model.losses)) if model.losses else 0.0
        logs = {"val_loss": found["loss"] + decay, "val_accuracy": 1 - found["error"]}
        logs["val_cross_entropy"] = found["loss"]
        if self._data.top_k is not None:
            k = self._data.top_k
            logs[f"val_top{k}_accuracy"] = 1 - found[f"top{k}_error"]
        return logs

    def measured_loss(self, limit: float) -> float:
        """Cross-entropy of the images that a minimum is measured on; see `loss_up_to`."""
        return loss_up_to(
            limit,
            self._now()[1],
            self._batches("train"),
            num_examples=self._data.num_measured,
            workers=self._workers,
        )

    def write(
        self, folder: RunFolder | None, *, progress: bool = False, **more: Any
    ) -> dict[str, Any]:
        """Saves the model and its losses and errors, which completes a run folder.

        Args:
            folder: None in a worker that is not the chief, which takes part in the evaluation.
            progress: show progress bars.
            **more: JSON values that belong into `result.json`.

        Returns:
            The content of `result.json`; nothing without a folder.
        """
        model, logits_of = self._now()
        if folder is not None:
            with replacing(folder.model_path) as temporary:
                model.save(temporary)
        result = {
            part: self._evaluate(logits_of, part, f"evaluating {part} images" if progress else None)
            for part in _PARTS
            if self._data.evaluation_batches(part) is not None
        }
        if folder is None:
            return {}
        folder.write_result(result | more)
        return result | more
