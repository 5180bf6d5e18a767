"""`CharacterizeCallback`: the metrics while a model is being trained."""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from infomcr_tf.arguments import check_integer
from infomcr_tf.characterization.characterize import Measurement
from infomcr_tf.characterization.metric_table import METRICS, shown
from infomcr_tf.characterization.report import MinimumReport
from infomcr_tf.characterization.settings import resolve_metrics
from infomcr_tf.gradients.full_precision import PrecisionError


class CharacterizeCallback(keras.callbacks.Callback):
    """Measures the model at the end of every k-th epoch of `fit`.

    The values appear in `logs` under `prefix` and the metric's name, so that `History` holds them,
    and callbacks that come later in the list (`CSVLogger`, `TensorBoard`) write them; they are nan
    where a loss has become nan. Epochs without a measurement have no such entries: with `every=k`,
    the lists in `History` hold one value every k-th epoch (`reports` says which), and `CSVLogger`,
    which takes its columns from the first epoch, leaves the metrics out. The training is not
    changed: neither weights, nor moving averages, nor random numbers.

    Args:
        x: the un-augmented training set, or a part of it; see `characterize`.
        y: its labels.
        every: measure after epochs `every`, `2 * every`, ... (counted from 1).
        metrics: the metrics to measure; see `characterize`. None for gamma_hat, spectral radius,
            Frobenius norm and trace. "all" includes the robustness over all of `x`, which can take
            longer than the epoch.
        num_trials: T; by default fewer than in `characterize`, as this runs often.
        num_samples: N'.
        prefix: put before each name in `logs`.
        log_dir: where to write TensorBoard scalars, only of measured epochs. None writes none.
        **settings: further arguments of `characterize`, e.g. `equalize_loss`. `per_layer` is False
            unless it is given.

    Attributes:
        reports: epoch (from 0) -> `MinimumReport`, with the values of the single trials.

    Raises:
        ValueError: where `every` is below 1, or an argument of `characterize` is wrong.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        *,
        every: int = 1,
        metrics: str | Sequence[str] | None = None,
        num_trials: int = 10,
        num_samples: int = 100,
        prefix: str = "",
        log_dir: str | os.PathLike | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.reports: dict[int, MinimumReport] = {}
        self._x, self._y, self._prefix = x, y, prefix
        self._every = check_integer("every", every, minimum=1)
        if metrics is None:
            metrics = [metric.name for metric in shown("callback")]
        self._settings = {
            "metrics": metrics,
            "num_trials": num_trials,
            "num_samples": num_samples,
            "per_layer": False,
            **settings,
        }
        self._names = _numbers_of(resolve_metrics(metrics))
        self._log_dir = log_dir
        self._writer = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Checks the data against the model, before the first epoch."""
        try:
            self._measurement: Measurement | None = Measurement(
                self.model, self._x, self._y, **self._settings
            )
            self._names = _numbers_of(self._measurement.metrics)
        except PrecisionError as error:
            self._measurement = None
            warnings.warn(f"training without measurements: {error}", UserWarning, stacklevel=2)
        if self._log_dir is not None:
            self._writer = tf.summary.create_file_writer(os.fspath(self._log_dir))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Measures, if it is an epoch's turn, and writes to `logs`."""
        logs = {} if logs is None else logs
        if (epoch + 1) % self._every:
            return
        report = self._measured(epoch)
        if report is None:
            logs.update({self._prefix + name: float("nan") for name in self._names})
            return
        self.reports[epoch] = report
        values = {name: getattr(report, name) for name in self._names}
        logs.update({self._prefix + name: value for name, value in values.items()})
        if self._writer is not None:
            with self._writer.as_default():
                for name, value in values.items():
                    tf.summary.scalar(self._prefix + name, value, step=epoch)
            self._writer.flush()

    def _measured(self, epoch: int) -> MinimumReport | None:
        """The report; None, with a warning, where the weights cannot be measured: they are nan."""
        if self._measurement is None:
            return None
        try:
            return self._measurement.run(progress=False)
        except ValueError as error:
            warnings.warn(f"no measurement of epoch {epoch}: {error}", UserWarning, stacklevel=2)
            return None

    def on_train_end(self, logs: dict | None = None) -> None:
        """Closes the TensorBoard writer."""
        if self._writer is not None:
            self._writer.close()


def _numbers_of(metrics: Sequence[str]) -> list[str]:
    """The metrics, and what is shown with them."""
    further = (number for name in metrics for number in METRICS[name].further)
    return [*metrics, *(n.name for n in further if "callback" in n.shown)]
