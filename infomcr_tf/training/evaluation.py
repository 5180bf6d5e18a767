"""Loss and errors of a model on un-augmented images."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.special import logsumexp

from infomcr_tf.progress import progress_bar
from infomcr_tf.training.workers import Workers


def logits_function(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from a batch of images to `model`'s outputs in inference mode, traced once."""
    images = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)
    in_inference_mode = functools.partial(model, training=False)
    return tf.function(in_inference_mode, autograph=False).get_concrete_function(images)


def evaluate(
    logits_of: Callable[[tf.Tensor], tf.Tensor],
    batches: tf.data.Dataset,
    *,
    top_k: int | None = None,
    workers: Workers | None = None,
    title: str | None = None,
) -> dict[str, float]:
    """Mean cross-entropy (natural logarithm, no weight decay) and error of a model.

    Args:
        logits_of: from images to logits [n, K], see `logits_function`.
        batches: a finite data set of (normalised images, integer labels), at least one example;
            the last batch may be smaller.
        top_k: also count the examples whose label is not among the k highest logits.
        workers: where several workers have a shard of the examples each, who they are.
        title: of a progress bar; None for none.

    Returns:
        `loss`, `error` (the fraction of wrong predictions), with `top_k` also `top{k}_error`, and
        `num_examples`.
    """
    ks = (1,) if top_k is None else (1, top_k)
    sums = np.zeros(2 + len(ks))
    size = int(batches.cardinality())
    known = size if size >= 0 else None
    with progress_bar(known, title=f"{title}, batches", shown=title is not None) as bar:
        for images, labels in batches:
            logits = np.asarray(logits_of(images), np.float64)
            sums += _sums(logits, labels.numpy(), ks)
            bar.update()
    if workers is not None:
        sums = workers.sum(sums)
    count, loss, *wrong = sums
    errors = {
        "error" if k == 1 else f"top{k}_error": n / count for k, n in zip(ks, wrong, strict=True)
    }
    return {"loss": loss / count, **errors, "num_examples": int(count)}


def loss_up_to(
    limit: float,
    logits_of: Callable[[tf.Tensor], tf.Tensor],
    batches: tf.data.Dataset,
    *,
    num_examples: int,
    workers: Workers | None = None,
) -> float:
    """The mean cross-entropy over `batches` where it is at most `limit`, else infinity.

    No loss is negative, so a batch after which the sum is too large is the last that is looked at:
    far above the limit that is one of the first, which makes it cheap to ask after every epoch.

    Args:
        limit: in nats.
        logits_of: see `evaluate`.
        batches: see `evaluate`.
        num_examples: of all workers.
        workers: see `evaluate`.
    """
    total = np.zeros(())
    for images, labels in batches:
        logits = np.asarray(logits_of(images), np.float64)
        total += _losses(logits, labels.numpy()).sum()
        if not total / num_examples <= limit:  # NaN is not at most anything
            break
    if workers is not None:
        total = workers.sum(total)
    loss = float(total / num_examples)
    return loss if loss <= limit else math.inf


class Validation(keras.callbacks.Callback):
    """Adds measurements to the logs of every epoch; put it before callbacks that read them.

    Args:
        measure: gives them, by name.
    """

    def __init__(self, measure: Callable[[], dict[str, float]]) -> None:
        super().__init__()
        self._measure = measure

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the measurements to the epoch's logs."""
        if logs is not None:
            logs.update(self._measure())


class TargetLoss(keras.callbacks.Callback):
    """Ends the training after the first epoch at whose end the training loss is low enough.

    The loss is that of the network as it would be saved, on the images that its minimum is measured
    on: un-augmented, without a confusion set, label smoothing, weight decay and penalty. An epoch's
    running mean is another: its batches were augmented, normalised by themselves and seen by
    weights that have changed since. Jiang et al. (2020), section 4, stop at a fixed cross-entropy
    too.

    Put it after `Checkpoint`, and call `reached` before the first step of a resumed training, which
    may have died between the two.

    Args:
        target: where to stop; None trains for all epochs.
        keep_at: other levels; the network is kept at the end of the first epoch at each of them.
        measure: from a limit to the loss of the weights as they are, or infinity where it is higher
            than the limit.
        keep: keeps the network as it is for one of the levels; called again for the same one when
            a training is resumed.
    """

    def __init__(
        self,
        target: float | None,
        keep_at: Sequence[float],
        measure: Callable[[float], float],
        keep: Callable[[float], None],
    ) -> None:
        super().__init__()
        self._target = -math.inf if target is None else target
        self._waiting = list(keep_at)
        self._measure = measure
        self._keep = keep

    def reached(self) -> bool:
        """Keeps the network at the levels that it has reached; whether the target is one."""
        loss = self._measure(max([self._target, *self._waiting]))
        for level in [level for level in self._waiting if loss <= level]:
            self._keep(level)
            self._waiting.remove(level)
        return loss <= self._target

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops, if the target is reached."""
        if self.reached():
            self.model.stop_training = True


def _sums(logits: np.ndarray, labels: np.ndarray, ks: tuple[int, ...]) -> list[float]:
    """Number of examples, sum of their losses, number of wrong ones for each k."""
    own = logits[np.arange(len(logits)), labels][:, np.newaxis]
    losses = _losses(logits, labels)
    # Before the label come higher logits, and equal ones of classes with a lower number, which
    # `argmax` prefers; NaN is before everything.
    earlier = np.arange(logits.shape[1]) < labels[:, np.newaxis]
    rank = np.sum(~(logits <= own) | ((logits == own) & earlier), axis=1)
    return [len(logits), losses.sum(), *(np.sum(rank >= k) for k in ks)]


def _losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each example; not negative."""
    return logsumexp(logits, axis=1) - logits[np.arange(len(logits)), labels]
