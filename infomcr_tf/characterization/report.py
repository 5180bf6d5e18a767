"""`MinimumReport`: what has been measured at one minimum."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infomcr_tf.characterization.bounds import (
    GeneralizationBound,
    generalization_bound,
)
from infomcr_tf.characterization.metric_table import find_number, numbers
from infomcr_tf.characterization.per_layer import PerLayer
from infomcr_tf.characterization.report_plot import plot_report
from infomcr_tf.characterization.report_table import (
    plus_minus,
    report_html,
    report_rows,
    report_text,
)
from infomcr_tf.pictures import Picture
from infomcr_tf.storage import read_json, to_float, write_json

_KIND = "infomcr_tf.MinimumReport"
_VERSION = 1
_INTEGER_TRIALS = ("num_kept",)


@dataclass(frozen=True, eq=False, repr=False)
class MinimumReport:
    """The metrics of one minimum; lower is said to generalise better for each but `rank`.

    A metric that was not selected is None; one that a trial could not measure is nan. Means and
    standard deviations (population, ddof=0) are over the T trials. Natural logarithms throughout.

    Every number of the table of metrics (`METRICS`) is an attribute as well: `gamma_hat`,
    `gamma_hat_std`, `gamma`, `log_singular_value_sum`, `spectral_radius`,
    `fisher_spectral_radius`, `frobenius_norm`, `frobenius_norm_cross`, `frobenius_norm_sampled`,
    `trace`, `rank`, `rank_tolerance`, `am_gm_gap`, `am_gm_bound`, `train_loss`, `train_accuracy`,
    and those of the metrics that you have registered.

    Attributes:
        num_parameters: W, the number of trainable parameters.
        num_examples: N, the number of examples in S.
        num_samples: N', the number of examples in one trial.
        trials: name -> float64 [T] (int64 for "num_kept"), one value per trial.
            "train_loss" and "train_accuracy" are the sample's own; "num_kept" is the number of
            examples left after `equalize_loss` has excluded those that it cannot equalise.
        robustness: `(1/N) sum_S ||J_x f(x)||_2^2`, f the softmax output, spectral norm.
        robustness_std: standard deviation of `||J_x f(x)||_2^2` over the examples.
        num_robustness_examples: the number of examples that `robustness` is the mean over.
        settings: the arguments that lead to these numbers.
        seconds: how long the measurement took; without the part that a `checkpoint` saved.
        per_layer: path of a layer -> its share of the trace of xi and its own ln|xi_l|, see
            `LayerReport`; empty where they were not measured.
    """

    num_parameters: int
    num_examples: int
    num_samples: int
    trials: Mapping[str, np.ndarray] = field(repr=False)
    robustness: float | Any = None
    robustness_std: float | Any = None
    num_robustness_examples: int | Any = None
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    seconds: float | None = None
    per_layer: PerLayer = field(default_factory=PerLayer, repr=False)

    def __str__(self) -> str:
        """An aligned table: every number with its spread and unit, gamma_hat first."""
        return report_text(self)

    def __repr__(self) -> str:
        head = f"T={self.num_trials}, N'={self.num_samples}, W={self.num_parameters}"
        gamma_hat = (
            plus_minus(self.gamma_hat, self.gamma_hat_std)
            if self.trials.get("gamma_hat") is not None
            else "not measured"
        )
        return f"<MinimumReport gamma_hat: {gamma_hat} nat ({head})>"

    def _repr_html_(self) -> str:
        return report_html(self)

    def plot(self) -> Picture:
        """Draws each metric that was measured in samples, the eigenvalues of xi, and the layers.

        Notebooks show what is returned; `report.plot().savefig("report.png")` writes it.

        Returns:
            A matplotlib `Figure`.

        Raises:
            ValueError: where no metric was measured in samples.
        """
        return plot_report(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """One row for each number that was measured, for a CSV file or a data frame.

        Each has `name`, `title`, `value`, `std` (over the samples, or None), `unit` (powers of the
        nat; "1" for a count), `num_samples` (N'), `num_trials` (T), `definition`, and `layer`: the
        path of the layer that it is of, None for a number of the whole model.
        """
        return report_rows(self)

    @property
    def num_trials(self) -> int:
        """T."""
        return len(self.trials["num_kept"]) if self.trials else 0

    def __getattr__(self, name: str) -> float | Any:
        """The number called `name` in the table of metrics; None where it was not measured."""
        number = find_number(name)
        if number is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return number.value(self)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(number.name for number in numbers())})

    def spread(self, name: str) -> float | Any:
        """The standard deviation of a metric: over the trials, or over the examples."""
        if name not in self.trials:
            return getattr(self, f"{name}_std")
        with np.errstate(invalid="ignore"):
            return float(np.std(self.trials[name]))

    @property
    def num_excluded(self) -> int:
        """Examples, over all trials, that `equalize_loss` had to leave out."""
        kept = self.trials.get("num_kept")
        return 0 if kept is None else int(len(kept) * self.num_samples - np.sum(kept))

    def generalization_bound(
        self, *, delta: float = 0.05, log_volume: float = 0.0
    ) -> GeneralizationBound:
        """Theorem 1 at this minimum; see `generalization_bound` for what it warns of.

        Raises:
            ValueError: where gamma_hat was not selected.
        """
        if self.gamma is None:
            raise ValueError('the bound needs gamma_hat: `metrics` must contain "gamma_hat".')
        return generalization_bound(
            self.gamma,
            num_parameters=self.num_parameters,
            num_examples=self.num_examples,
            train_loss=self.train_loss,
            train_accuracy=self.train_accuracy,
            log_volume=log_volume,
            delta=delta,
        )

    def to_dict(self) -> dict[str, Any]:
        """All numbers, derived ones included, as plain Python values; but not `seconds`.

        So two measurements with equal results have equal dictionaries.
        """
        summary = {number.name: number.value(self) for number in numbers()}
        return {
            **{name: value for name, value in summary.items() if value is not None},
            "num_excluded": self.num_excluded,
            "num_parameters": self.num_parameters,
            "num_examples": self.num_examples,
            "num_samples": self.num_samples,
            "num_trials": self.num_trials,
            "trials": {name: values.tolist() for name, values in self.trials.items()},
            "settings": dict(self.settings),
            **({"per_layer": self.per_layer.to_dict()} if self.per_layer else {}),
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes the report as JSON, whole or not at all; non-finite numbers as strings.

        Raises:
            OSError: where the folder cannot be written to.
        """
        content = {"kind": _KIND, "version": _VERSION, **self.to_dict()}
        if self.seconds is not None:
            content["seconds"] = self.seconds
        write_json(path, content)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "MinimumReport":
        """Reads a report that `save` has written.

        Raises:
            FileNotFoundError: where there is no such file.
            ValueError: where the file is damaged, no report, or of another version.
        """
        content = read_json(path, kind=_KIND, version=_VERSION)
        try:
            layers = content.get("per_layer", {})
            report = cls(
                num_parameters=_count(content["num_parameters"]),
                num_examples=_count(content["num_examples"]),
                num_samples=_count(content["num_samples"]),
                trials=to_arrays(content["trials"]),
                robustness=_optional(to_float, content.get("robustness")),
                robustness_std=_optional(to_float, content.get("robustness_std")),
                num_robustness_examples=_optional(_count, content.get("num_robustness_examples")),
                settings=dict(content["settings"]),
                seconds=_optional(to_float, content.get("seconds")),
                per_layer=PerLayer.from_dict(layers, _count(content["num_trials"])),
            )
            sound = report._agrees_with(content)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path} is damaged: {error!r}.") from None
        if not sound:
            raise ValueError(f"{path} is damaged: its numbers contradict each other.")
        return report

    def _agrees_with(self, content: Mapping[str, Any]) -> bool:
        """Whether the numbers that follow from others are those that the file states."""
        if self.trials and (
            "num_kept" not in self.trials or len({len(v) for v in self.trials.values()}) > 1
        ):
            return False
        if unknown := {name for name in self.trials if not _is_known(name)}:
            raise ValueError(
                f"it has metrics that are not registered: {', '.join(sorted(unknown))}. Import the "
                "module that registers them"
            )
        own = self.to_dict()
        stated = {
            name: value
            for name, value in content.items()
            if name not in ("kind", "version", "seconds")
        }
        return own.keys() == stated.keys() and all(
            _close(own[name], stated[name])
            for name in own
            if name not in ("trials", "settings", "per_layer")
        )


def to_arrays(trials: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Turns lists of numbers (or of "inf", "-inf", "nan") into the arrays of `trials`."""
    return {
        name: np.array(
            [to_float(value) for value in values],
            dtype=np.int64 if name in _INTEGER_TRIALS else np.float64,
        )
        for name, values in trials.items()
    }


def _is_known(name: str) -> bool:
    return name in _INTEGER_TRIALS or find_number(name) is not None


def _optional(kind: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else kind(value)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _close(own: float, stated: Any) -> bool:
    """Whether two numbers are equal up to the order in which another machine adds."""
    return bool(np.isclose(own, to_float(stated), rtol=1e-9, atol=0, equal_nan=True))
