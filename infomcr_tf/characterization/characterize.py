"""`characterize`: measures a trained minimum."""

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from infomcr_tf.characterization.checkpoint import Checkpoint, fingerprint
from infomcr_tf.characterization.devices import resolve_devices, spread
from infomcr_tf.characterization.examples import check_examples, num_examples, take
from infomcr_tf.characterization.frobenius import sampled_frobenius_norm
from infomcr_tf.characterization.gram import GradientEngine
from infomcr_tf.characterization.metrics import TRIAL_METRICS, TrialSpectrum
from infomcr_tf.characterization.report import MinimumReport, to_arrays
from infomcr_tf.characterization.robustness import InputJacobian
from infomcr_tf.characterization.sampling import sample_indices
from infomcr_tf.characterization.settings import Settings, resolve_settings

# Examples between two steps of the progress bar (and two possible stops) of the robustness.
_ROBUSTNESS_BLOCK = 100


def characterize(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    num_trials: int = 100,
    num_samples: int = 100,
    metrics: str | Sequence[str] = "all",
    batch_norm: str = "inference",
    chunk_size: int | None = None,
    normalize_logits: float | None = None,
    equalize_loss: float | None = None,
    method: str = "auto",
    seed: int = 0,
    protocol: str | None = None,
    num_robustness_examples: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    devices: Sequence[str] | None = None,
    max_memory_bytes: int = 2 * 1024**3,
    progress: bool = True,
) -> MinimumReport:
    r"""Measures the minimum that a trained model is at (sections 5 and 7.1, appendix D).

    For each of T trials a sample S^t of N' training examples is drawn and
    `xi^t = J J^T` is built from their per-example gradients with respect to the trainable weights
    (Eq. 5); nearly all metrics are functions of it, averaged over the trials. The model is not
    changed, whatever happens.

    Args:
        model: a built Keras model with one output [n, K], logits or a softmax of logits.
        x: the un-augmented training set S, one array [N, ...], or a list, tuple or dict of arrays.
        y: integer labels [N], or one-hot or soft labels [N, K] (the largest counts, Eq. 4).
        num_trials: T.
        num_samples: N', the examples of one trial; drawn without replacement, independently of the
            other trials.
        metrics: "all", or some of `METRICS`; what is not selected is not computed.
        batch_norm: "inference" (moving averages, so that per-example gradients exist) or "batch"
            (the statistics of chunks of `chunk_size`). Robustness is always in inference mode.
        chunk_size: examples per pass; in "batch" mode those that share statistics (default 10).
        normalize_logits: s; logits become `z / (||z|| s)`, differentiated through.
        equalize_loss: L; every example's logits are multiplied by its own temperature, a constant,
            so that its cross-entropy is L. Examples that have none are left out and counted.
        method: how per-example gradients are computed, see `GradientEngine`.
        seed: reproduces the samples.
        protocol: "authors" is the authors' released procedure: BatchNorm with the statistics of
            chunks of 10, logits divided by 0.04 times their norm, disjoint batches in stored order
            (the first T N' examples). None otherwise.
        num_robustness_examples: size of a random part of S for the robustness; default all of S.
        checkpoint: a file in which finished trials are kept. If it exists and was made with the
            same settings, weights and data, they are not computed again.
        devices: names of devices to spread the trials over, e.g. ["GPU:0", "GPU:1"]; default all
            GPUs. The numbers do not depend on it.
        max_memory_bytes: bound on the memory for J and for the recorded activations, per device.
        progress: show progress bars.

    Returns:
        A `MinimumReport`.

    Raises:
        TypeError: where `model` is not a Keras model.
        ValueError: where an argument or the data do not fit; before any work starts.
        OSError: where `checkpoint` cannot be written.
    """
    x, labels = check_examples(model, x, y)
    settings = resolve_settings(
        len(labels),
        metrics=metrics,
        protocol=protocol,
        num_trials=num_trials,
        num_samples=num_samples,
        batch_norm=batch_norm,
        chunk_size=chunk_size,
        normalize_logits=normalize_logits,
        equalize_loss=equalize_loss,
        method=method,
        seed=seed,
        num_robustness_examples=num_robustness_examples,
    )
    devices = resolve_devices(devices)
    # Refuses what it cannot work with, before a checkpoint is touched.
    GradientEngine(model, **settings.engine_arguments, max_memory_bytes=max_memory_bytes)
    identity = None if checkpoint is None else fingerprint(model, x, labels, settings)
    state = Checkpoint(checkpoint, identity)

    def run(part: str, items: Iterable[int], make_worker: Callable, description: str) -> None:
        todo = [item for item in items if item not in getattr(state, part)]
        if not todo:
            return
        finished = spread(todo, make_worker, devices)
        bar = tqdm(finished, desc=description, total=len(todo), disable=not progress)
        for item, result in bar:
            state.record(part, item, result)

    try:
        if settings.trial_metrics:

            def trials_on(device: str | None) -> "_Trials":
                return _Trials(model, x, labels, settings, device, max_memory_bytes)

            run("trials", range(settings.num_trials), trials_on, "trials")
        if "robustness" in settings.metrics:

            def blocks_on(device: str | None) -> "_RobustnessBlocks":
                return _RobustnessBlocks(model, x, labels, settings, device, max_memory_bytes)

            blocks = range(-(-_num_robustness(settings, labels) // _ROBUSTNESS_BLOCK))
            run("robustness", blocks, blocks_on, "robustness")
    finally:
        state.write()
    return _report(model, x, settings, state)


class _Trials:
    """Measures one trial after another on one device."""

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        labels: np.ndarray,
        settings: Settings,
        device: str | None,
        max_memory_bytes: int,
    ) -> None:
        self._x, self._labels, self._settings = x, labels, settings
        self._num_parameters = _num_parameters(model)
        self._engine = GradientEngine(
            model, **settings.engine_arguments, device=device, max_memory_bytes=max_memory_bytes
        )

    def __call__(self, trial: int) -> dict[str, float]:
        settings = self._settings
        indices = sample_indices(
            len(self._labels),
            settings.num_samples,
            trial,
            seed=settings.seed,
            in_stored_order=settings.protocol == "authors",
        )
        x, labels = take(self._x, indices), self._labels[indices]
        gram = self._engine.gram(x, labels)
        if not len(gram.kept):
            raise ValueError(
                "`equalize_loss` needs correctly classified examples: only they have a temperature "
                f"that gives the loss. Received: a sample of {len(labels)} without any."
            )
        spectrum = TrialSpectrum(gram)
        result = {
            "train_loss": float(np.mean(gram.losses)),
            "train_accuracy": float(np.mean(gram.correct)),
            "num_kept": len(gram.kept),
        }
        for name in settings.trial_metrics:
            if name in TRIAL_METRICS:
                result.update(TRIAL_METRICS[name](spectrum))
        if "frobenius_norm_sampled" in settings.trial_metrics:
            result["frobenius_norm_sampled"] = sampled_frobenius_norm(
                self._engine,
                x,
                labels,
                num_parameters=self._num_parameters,
                generator=np.random.default_rng([settings.seed, trial, 1]),
            )
        return result


class _RobustnessBlocks:
    """Measures one block of examples after another on one device."""

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        labels: np.ndarray,
        settings: Settings,
        device: str | None,
        max_memory_bytes: int,
    ) -> None:
        self._x, self._labels = x, labels
        self._indices = np.arange(len(labels))
        if settings.num_robustness_examples is not None:
            generator = np.random.default_rng([settings.seed, 0, 2])
            chosen = generator.choice(len(labels), _num_robustness(settings, labels), replace=False)
            self._indices = np.sort(chosen)
        self._jacobian = InputJacobian(
            model,
            normalize_logits=settings.normalize_logits,
            equalize_loss=settings.equalize_loss,
            device=device,
            max_memory_bytes=max_memory_bytes,
        )

    def __call__(self, block: int) -> list[float]:
        """Returns the number of values of the block, their mean, and their summed squares."""
        start = block * _ROBUSTNESS_BLOCK
        indices = self._indices[start : start + _ROBUSTNESS_BLOCK]
        values = self._jacobian.squared_norms(take(self._x, indices), self._labels[indices])
        if not len(values):
            return [0, 0.0, 0.0]
        mean = float(np.mean(values))
        return [len(values), mean, float(np.sum((values - mean) ** 2))]


def _num_robustness(settings: Settings, labels: np.ndarray) -> int:
    return settings.num_robustness_examples or len(labels)


def _num_parameters(model: keras.Model) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def _report(model: keras.Model, x: Any, settings: Settings, state: Checkpoint) -> MinimumReport:
    trials = {}
    if settings.trial_metrics:
        results = [state.trials[trial] for trial in range(settings.num_trials)]
        trials = to_arrays({name: [r[name] for r in results] for name in results[0]})
    robustness, robustness_std = None, None
    if "robustness" in settings.metrics:
        blocks = np.array([state.robustness[block] for block in sorted(state.robustness)])
        robustness, robustness_std = _pool(*blocks.T)
    report = MinimumReport(
        num_parameters=_num_parameters(model),
        num_examples=num_examples(x),
        num_samples=settings.num_samples,
        trials=trials,
        robustness=robustness,
        robustness_std=robustness_std,
        settings=settings.to_dict(),
    )
    _warn_of_singular_or_excluded(report)
    return report


def _pool(counts: np.ndarray, means: np.ndarray, squares: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of all values from those of blocks, without cancellation."""
    if not counts.sum():
        raise ValueError("`equalize_loss`: no example has a temperature that gives the loss.")
    mean = float(np.sum(counts * means) / np.sum(counts))
    variance = (np.sum(squares) + np.sum(counts * (means - mean) ** 2)) / np.sum(counts)
    return mean, float(np.sqrt(variance))


def _warn_of_singular_or_excluded(report: MinimumReport) -> None:
    if report.num_excluded:
        warnings.warn(
            f"`equalize_loss` left out {report.num_excluded} wrongly classified examples of "
            f"{report.num_trials * report.num_samples}: gamma_hat is a sum over the examples left, "
            "so compare networks by `gamma`, or on examples that all of them classify correctly.",
            UserWarning,
            stacklevel=4,
        )
    singular = np.isneginf(report.trials.get("gamma_hat", np.zeros(0)))
    if singular.any():
        warnings.warn(
            f"xi is singular in {singular.sum()} of {report.num_trials} trials, so gamma_hat "
            "is -inf: repeated examples, or or gradients that are zero or dependent (see `rank`).",
            UserWarning,
            stacklevel=4,
        )
