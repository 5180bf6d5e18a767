"""One trial: the sample S^t, its Gram matrix, and all metrics that follow from it."""

import functools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.characterization.example_set import ArrayExamples, StreamedExamples
from infomcr_tf.characterization.metric_table import METRICS, SPECTRUM
from infomcr_tf.characterization.per_layer import MAX_SAMPLES, layer_numbers
from infomcr_tf.characterization.settings import Settings
from infomcr_tf.characterization.trial_spectrum import TrialSpectrum
from infomcr_tf.curvature import HessianOperator
from infomcr_tf.gradients.gram import GradientEngine, engine_of
from infomcr_tf.gradients.head import Head
from infomcr_tf.gradients.loss_head import LossHead
from infomcr_tf.gradients.passes import DEFAULT_CHUNK

# Examples of a trial that takes minutes.
_MANY = 1000


class Trials:
    """Measures one trial after another on one device.

    Args:
        model: a built Keras model.
        examples: S.
        settings: which samples, which metrics.
        head: whose gradients the rows are.
        device: a TensorFlow device name, or None.
        max_memory_bytes: see `GradientEngine`.
    """

    TITLE = "trials"

    def __init__(
        self,
        model: keras.Model,
        examples: ArrayExamples | StreamedExamples,
        settings: Settings,
        *,
        head: Head | LossHead,
        device: str | None,
        max_memory_bytes: int,
    ) -> None:
        self._examples, self._settings, self._head = examples, settings, head
        self._model = model
        self._engine_arguments = {
            **settings.engine_arguments,
            "loss": head,
            "device": device,
            "max_memory_bytes": max_memory_bytes,
        }
        # Made here so that arguments it cannot work with are refused before any trial.
        sizes = GradientEngine(model, **self._engine_arguments).layer_sizes
        num_samples = settings.num_samples
        told_apart = (
            settings.per_layer
            and num_samples <= MAX_SAMPLES
            and 8 * len(sizes) * num_samples**2 <= max_memory_bytes // 4
        )
        #: Path -> number of weights, of the layers that are told apart; empty where none are.
        self.layer_sizes = sizes if told_apart else {}
        #: Where a trial of very many examples keeps what it has computed, or None.
        self.state: Path | None = None
        #: Whether such a trial shows its progress.
        self.progress = False
        self._num_parameters = num_parameters(model)
        self._device = device
        self._hessian: HessianOperator | None = None

    def __call__(self, trial: int) -> dict[str, float]:
        """Returns the numbers of trial t by name; nan where `equalize_loss` leaves no example."""
        settings = self._settings
        indices = sample_of(settings, len(self._examples), trial)
        x, labels = self._examples.take(indices)
        with engine_of(self._model, **self._engine_arguments) as engine:
            return self._measured(trial, engine, x, labels)

    def _measured(
        self, trial: int, engine: GradientEngine, x: Any, labels: np.ndarray
    ) -> dict[str, float]:
        settings, checked = self._settings, self._examples.checked
        long: dict[str, Any] = {}
        if len(labels) >= _MANY:
            state = self.state and self.state.with_name(f"{self.state.name}.trial{trial}.npz")
            long = {"state": state, "progress": self.progress}
        try:
            gram = engine.gram(
                x, labels, per_layer=bool(self.layer_sizes), skip_checks=checked, **long
            )
        except tf.errors.InvalidArgumentError as error:  # such as a label that is no class
            reason = " ".join(str(error.message).split())[:200]
            raise ValueError(
                f"sample {trial} of `x` and `y` cannot be computed: {reason}"
            ) from None
        result = {
            "train_loss": float(np.mean(gram.losses)),
            "num_kept": len(gram.kept),
        }
        if self._head.has_classes:
            result["train_accuracy"] = float(np.mean(gram.correct))
        numbers = [n for name in settings.trial_metrics for n in METRICS[name].of_trials]
        if "spectral_radius" in settings.trial_metrics:
            numbers += SPECTRUM
        computed = {n.name: n.compute for n in numbers if n.compute is not None}
        if not len(gram.kept):
            nothing = dict.fromkeys(computed, float("nan"))
            return result | nothing | layer_numbers(None, self.layer_sizes)
        result |= layer_numbers(gram, self.layer_sizes)
        spectrum = TrialSpectrum(
            gram,
            row_blocks=functools.partial(engine.row_blocks, x, labels, skip_checks=checked),
            num_parameters=self._num_parameters,
            generator=np.random.default_rng([settings.seed, trial, 1]),
            make_hessian=functools.partial(self._hessian_of, x, labels),
            hessian_seed=int(np.random.default_rng([settings.seed, trial, 3]).integers(2**31)),
        )
        return result | {name: compute(spectrum) for name, compute in computed.items()}

    def _hessian_of(self, x: Any, labels: np.ndarray) -> HessianOperator:
        """The Hessian of the mean loss over the examples; traced for the first ones only."""
        settings = self._settings
        size = settings.chunk_size or (DEFAULT_CHUNK if settings.batch_norm == "batch" else 100)
        if self._hessian is not None:
            return self._hessian.with_examples(x, labels, batch_size=size)
        self._hessian = HessianOperator(
            self._model,
            x,
            labels,
            loss=self._head,
            batch_size=size,
            batch_norm=settings.batch_norm,
            devices=None if self._device is None else [self._device],
        )
        return self._hessian


def sample_indices(
    num_examples: int, num_samples: int, trial: int, *, seed: int, in_stored_order: bool = False
) -> np.ndarray:
    """Draws the sample S^t: N' of the N examples, without replacement.

    A repeated example would make xi singular, so there is none within a sample; samples of
    different trials are independent. The sample depends on (seed, trial) alone: trials can be run
    in any order, on any device, and more of them can be added to a finished run.

    Args:
        num_examples: N.
        num_samples: N'.
        trial: t, from 0.
        seed: reproduces the samples.
        in_stored_order: take examples `t N', ..., (t + 1) N' - 1` instead, as the authors do.

    Returns:
        int64 [N'], the indices into S.
    """
    if in_stored_order:
        return np.arange(trial * num_samples, (trial + 1) * num_samples)
    generator = np.random.default_rng([seed, trial])
    return generator.choice(num_examples, num_samples, replace=False)


def sample_of(settings: Settings, num_examples: int, trial: int) -> np.ndarray:
    """The indices [N'] of trial t's sample of N examples."""
    return sample_indices(
        num_examples,
        settings.num_samples,
        trial,
        seed=settings.seed,
        in_stored_order=settings.protocol == "authors",
    )


def num_parameters(model: keras.Model) -> int:
    """W, the number of trainable parameters."""
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
