"""`characterize`: measures a trained minimum."""

import dataclasses
import functools
import math
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from infomcr_tf.characterization.example_set import open_examples
from infomcr_tf.characterization.finished_trials import FinishedTrials, fingerprint
from infomcr_tf.characterization.metric_table import METRICS
from infomcr_tf.characterization.per_layer import PerLayer, collect, is_of_layer
from infomcr_tf.characterization.report import MinimumReport, to_arrays
from infomcr_tf.characterization.robustness import (
    BatchBlock,
    RobustnessBlocks,
    UnavailableMetricError,
    pool_blocks,
)
from infomcr_tf.characterization.settings import resolve_settings
from infomcr_tf.characterization.trials import Trials, num_parameters, sample_of
from infomcr_tf.device_pool import resolve_devices, spread
from infomcr_tf.gradients.losses import describe, make_head, smoothing_of
from infomcr_tf.precision import float32_precision
from infomcr_tf.progress import progress_bar
from infomcr_tf.regularizer import FisherRegularizedModel


def characterize(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    num_trials: int = 100,
    num_samples: int | str = 100,
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
    loss: Any = "auto",
    loss_weights: Any = None,
    per_layer: bool = True,
) -> MinimumReport:
    r"""Measures the minimum that a trained model is at (sections 5 and 7.1, appendix D).

    For each of T trials a sample S^t of N' training examples is drawn and
    `xi^t = J J^T` is built from their per-example gradients with respect to the trainable weights
    (Eq. 5); nearly all metrics are functions of it, averaged over the trials. The model is not
    changed, whatever happens.

    Args:
        model: a built Keras model with one output [n, K], logits or a softmax of logits; of a
            `FisherRegularizedModel` the wrapped model is measured.
        x: the un-augmented training set S, one array [N, ...], or a list, tuple or dict of arrays
            (in memory or mapped from a file). Or, without `y`, a finite `tf.data.Dataset` or
            `keras.utils.PyDataset` of batches (x, y), or a function that returns an iterator over
            them: it is read once to count the examples, once to fetch those of all trials, and once
            for the robustness.
        y: integer labels [N], or one-hot or soft labels [N, K] (the largest counts, Eq. 4).
        num_trials: T.
        num_samples: N', the examples of one trial; drawn without replacement, independently of the
            other trials. "all" measures all N examples in one trial, in tiles: 10,000 take minutes.
        metrics: "all", or some of `METRICS`; what is not selected is not computed. "all" leaves out
            "frobenius_norm_sampled", which estimates what "frobenius_norm" is exactly, and
            `hessian_spectral_radius`, `hessian_trace` and `hessian_frobenius_norm`, which take far
            longer: those of the true Hessian of each sample's mean loss.
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
        progress: show a bar in terminals and notebooks, and a line now and then in logs.
        loss: whose gradients the rows of J are. "auto": the cross-entropy of K >= 2 logits or of a
            softmax, and an error where the model was compiled with another loss or gives other
            outputs. "compiled": the losses and weights given to `compile`. A Keras loss or its
            name, a list or dict of them for several outputs, or a function `(y, y_pred) -> [n]`:
            `y` then holds the targets of this loss, and an example's loss is what Keras computes
            for a batch of this example alone. `equalize_loss` and `normalize_logits` need classes,
            and the robustness is that of the outputs themselves.
        loss_weights: numbers for the outputs, as in `compile`.
        per_layer: also give each layer's share of the trace of xi and its own ln|xi_l|, for samples
            of up to 1,000 examples. Inner products are then computed in float64.

    Returns:
        A `MinimumReport`.

    Raises:
        TypeError: where `model` is not a Keras model, or `checkpoint` no path.
        ValueError: where an argument or the data do not fit; before any work starts.
        OSError: where `checkpoint` cannot be written.
    """
    measurement = Measurement(
        model,
        x,
        y,
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
        devices=devices,
        max_memory_bytes=max_memory_bytes,
        loss=loss,
        loss_weights=loss_weights,
        per_layer=per_layer,
    )
    return measurement.run(checkpoint=checkpoint, progress=progress)


class Measurement:
    """What `characterize` does, for a model that is measured more than once.

    The graphs that compute gradients are traced in the first run and serve later ones, with the
    weights that the model then has.

    Args:
        model: see `characterize`.
        x: see `characterize`.
        y: see `characterize`.
        metrics: see `characterize`.
        protocol: see `characterize`.
        devices: see `characterize`.
        max_memory_bytes: see `characterize`.
        loss: see `characterize`.
        loss_weights: see `characterize`.
        **settings: the other arguments of `characterize` that change its numbers.

    Raises:
        TypeError: where `model` is not a Keras model.
        ValueError: where an argument or the data do not fit.
    """

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        *,
        metrics: str | Sequence[str] = "all",
        protocol: str | None = None,
        devices: Sequence[str] | None = None,
        max_memory_bytes: int = 2 * 1024**3,
        loss: Any = "auto",
        loss_weights: Any = None,
        **settings: Any,
    ) -> None:
        self.model = model.model if isinstance(model, FisherRegularizedModel) else model
        self._make_head = functools.partial(make_head, model, loss, loss_weights=loss_weights)
        self._examples = open_examples(self.model, x, y, self._make_head(), max_memory_bytes)
        self._settings = resolve_settings(
            len(self._examples),
            metrics=metrics,
            protocol=protocol,
            loss=self._described(loss, loss_weights),
            **settings,
        )
        self._devices = resolve_devices(devices)
        self._max_memory_bytes = max_memory_bytes
        self._workers: dict[tuple, Any] = {}
        self._fetched = False
        if self._settings.loss == "auto" and (smoothing := smoothing_of(model)):
            warnings.warn(
                f"`model` was compiled with label_smoothing={smoothing:g}, and the cross-entropy "
                'of the labels themselves is measured; `loss="compiled"` takes the smoothed one.',
                UserWarning,
                stacklevel=3,
            )
        # Refuses here what these cannot work with, before anything is traced or written.
        if self._settings.trial_metrics:
            self._worker(Trials, self._devices[0])
        if self._settings.input_metrics:
            self._check_input_metrics(by_name=metrics != "all")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are measured."""
        return self._settings.metrics

    def _check_input_metrics(self, *, by_name: bool) -> None:
        """Leaves out what the model does not have, unless it was asked for by name."""
        try:
            self._worker(RobustnessBlocks, self._devices[0]).check()
        except UnavailableMetricError as error:
            others = self._settings.trial_metrics
            if by_name:
                names = [n for n in others or METRICS if METRICS[n].needs != "inputs"]
                raise ValueError(f"{error}. Leave it out: `metrics={names}`") from None
            warnings.warn(f"left out: {error}.", UserWarning, stacklevel=4)
            self._settings = dataclasses.replace(self._settings, metrics=others)

    def _described(self, loss: Any, loss_weights: Any) -> str:
        if isinstance(loss, str) and loss == "auto":
            return loss
        head = self._make_head()
        text = describe(getattr(head, "loss", loss))
        weights = getattr(head, "loss_weights", loss_weights)
        return text if weights is None else f"{text} with weights {weights}"

    def run(
        self, *, checkpoint: str | os.PathLike | None = None, progress: bool = True
    ) -> MinimumReport:
        """Measures the model as it is now; see `characterize`."""
        if not (checkpoint is None or isinstance(checkpoint, (str, os.PathLike))):
            raise TypeError(f"`checkpoint` must be a path or None. Received: {checkpoint!r}")
        settings = self._settings
        identity = None
        if checkpoint is not None:
            identity = fingerprint(self.model, self._examples, settings)
        state = FinishedTrials(checkpoint, identity)
        start = time.monotonic()
        try:
            # TensorFloat-32 would leave three digits of J.
            with float32_precision():
                if settings.trial_metrics:
                    self._fetch_samples(state)
                    for device in self._devices:
                        worker = self._worker(Trials, device)
                        worker.state = None if checkpoint is None else Path(checkpoint)
                        worker.progress = progress
                    self._run(Trials, state.trials, range(settings.num_trials), state, progress)
                if settings.input_metrics:
                    blocks = RobustnessBlocks.indices(settings, len(self._examples))
                    self._run(RobustnessBlocks, state.robustness, blocks, state, progress)
        finally:
            state.write()
        report = self._report(state, time.monotonic() - start)
        _warn_of_singular_or_excluded(report)
        return report

    def _fetch_samples(self, state: FinishedTrials) -> None:
        """Draws the samples of all trials and fetches them in one pass, once."""
        todo = [t for t in range(self._settings.num_trials) if t not in state.trials]
        if todo and not self._fetched:
            indices = [sample_of(self._settings, len(self._examples), trial) for trial in todo]
            self._examples.fetch(np.concatenate(indices))
            self._fetched = not state.trials

    def _run(
        self, kind: Any, results: dict, items: range, state: FinishedTrials, progress: bool
    ) -> None:
        """Fills in the results that are missing."""
        todo = [item for item in items if item not in results]
        done = len(items) - len(todo)
        devices = self._devices
        if kind is RobustnessBlocks and self._examples.streamed and todo:
            # One block after the other as they are read: none waits in memory for a device.
            devices = devices[:1]
            todo = self._worker(kind, devices[0]).streamed(set(todo))
        finished = spread(todo, lambda device: self._worker(kind, device), devices)
        with progress_bar(len(items), title=kind.TITLE, done=done, shown=progress) as bar:
            for item, result in finished:
                results[item.number if isinstance(item, BatchBlock) else item] = result
                state.write_if_due()
                bar.update()

    def _worker(self, kind: Any, device: str | None) -> Any:
        if (kind, device) not in self._workers:
            self._workers[kind, device] = kind(
                self.model,
                self._examples,
                self._settings,
                head=self._make_head(
                    normalize_logits=self._settings.normalize_logits,
                    equalize_loss=self._settings.equalize_loss,
                ),
                device=device,
                max_memory_bytes=self._max_memory_bytes,
            )
        return self._workers[kind, device]

    def _report(self, state: FinishedTrials, seconds: float) -> MinimumReport:
        settings = self._settings
        trials, per_layer = {}, PerLayer()
        if settings.trial_metrics:
            results = [state.trials[trial] for trial in range(settings.num_trials)]
            per_layer = collect(results, self._worker(Trials, self._devices[0]).layer_sizes)
            names = dict.fromkeys(n for result in results for n in result if not is_of_layer(n))
            trials = to_arrays(
                {name: [result.get(name, math.nan) for result in results] for name in names}
            )
        robustness: tuple[Any, ...] = (None, None, None)
        if settings.input_metrics:
            robustness = pool_blocks([values for _, values in sorted(state.robustness.items())])
        return MinimumReport(
            num_parameters=num_parameters(self.model),
            num_examples=len(self._examples),
            num_samples=settings.num_samples,
            trials=trials,
            robustness=robustness[0],
            robustness_std=robustness[1],
            num_robustness_examples=robustness[2],
            settings=settings.to_dict(),
            seconds=seconds,
            per_layer=per_layer,
        )


def _warn_of_singular_or_excluded(report: MinimumReport) -> None:
    if report.num_excluded:
        warnings.warn(
            f"`equalize_loss` left out {report.num_excluded} wrongly classified examples of "
            f"{report.num_trials * report.num_samples}: gamma_hat is a sum over the examples left, "
            "so compare networks by `gamma`, or on examples that all of them classify correctly. "
            "A trial in which none is left is nan.",
            UserWarning,
            stacklevel=4,
        )
    singular = np.isneginf(report.trials.get("gamma_hat", np.zeros(0)))
    if singular.any():
        warnings.warn(
            f"xi is singular in {singular.sum()} of {report.num_trials} trials, so gamma_hat "
            "is -inf: repeated examples, or gradients that are zero or dependent (see `rank`).",
            UserWarning,
            stacklevel=4,
        )
