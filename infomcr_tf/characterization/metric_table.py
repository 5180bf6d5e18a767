"""What is known about each number of a report: read by everything that computes or shows it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from infomcr_tf.registry import Registry

if TYPE_CHECKING:
    from infomcr_tf.characterization.report import MinimumReport
    from infomcr_tf.characterization.trial_spectrum import TrialSpectrum

NEEDS = ("gram", "rows", "inputs", "hessian")
PLACES = ("callback", "table", "plot", "experiments", "figure")


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number of a `MinimumReport`, and the attribute under which it is there.

    Attributes:
        name: of the attribute.
        title: heading of a column or a panel of a plot.
        symbol: LaTeX, without dollar signs; empty where the paper has none.
        equation: where it is defined.
        unit: in powers of the nat, where gradients are nats per unit of weight; "1" for a count.
        compute: the value of one trial, from its `TrialSpectrum`; None for a number that follows
            from others.
        derive: the value, from the report; None for one that follows from the trials' values.
        reduce: from the trials' values [T] to the value; by default their mean.
        shown: where it is shown, besides the report itself; of `PLACES`. "callback": measured
            during training unless others are asked for; "table" and "plot": of a comparison;
            "experiments": their tables and rank correlations; "figure": their figure.
    """

    name: str
    title: str
    symbol: str = ""
    equation: str = ""
    unit: str = "1"
    compute: Callable[[TrialSpectrum], float] | None = None
    derive: Callable[[MinimumReport], float | None] | None = None
    reduce: Callable[[np.ndarray], Any] = np.mean
    shown: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.compute is None) == (self.derive is None):
            raise ValueError(f"{self.name}: exactly one of `compute` and `derive` must be given.")
        if wrong := set(self.shown) - set(PLACES):
            raise ValueError(f"{self.name}: `shown` must be of {PLACES}. Received: {wrong}")

    @property
    def label(self) -> str:
        """The title of a plot: the symbol where there is one, else the title."""
        return f"${self.symbol}$" if self.symbol else self.title

    def value(self, report: MinimumReport) -> float | None:
        """The number in `report`; None where it was not measured."""
        if self.derive is not None:
            return self.derive(report)
        values = report.trials.get(self.name)
        return None if values is None else float(self.reduce(values))


@dataclass(frozen=True, kw_only=True)
class Metric(Number):
    """A number that `characterize(metrics=...)` can be asked for: one row of the table.

    Attributes:
        needs: what it is computed from: "gram" (xi = J J^T of a sample), "rows" (J itself, once
            more), "inputs" (the input Jacobian of the softmax) or "hessian" (products with the
            Hessian of the sample's mean loss: not part of "all", as these take far longer).
        further: numbers that come with it.
    """

    needs: str = "gram"
    further: tuple[Number, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.needs not in NEEDS:
            raise ValueError(
                f"{self.name}: `needs` must be one of {NEEDS}. Received: {self.needs!r}"
            )

    @property
    def numbers(self) -> tuple[Number, ...]:
        """The metric and what comes with it."""
        return (self, *self.further)

    @property
    def of_trials(self) -> tuple[Number, ...]:
        """Those of them that every trial has a value of."""
        return tuple(number for number in self.numbers if number.compute is not None)


METRICS: Registry[Metric] = Registry("metric")


def register_metric(metric: Metric) -> Metric:
    """Adds a metric to all that `characterize` can measure; see the classes above.

    Example:
        def min_eigenvalue(trial):
            return trial.scale * float(trial.scaled_eigenvalues[0])

        register_metric(Metric(name="min_eigenvalue", title="smallest eigenvalue",
                               compute=min_eigenvalue, shown=("table", "plot")))

    Raises:
        ValueError: if the name, or that of a further number, is taken.
    """
    names = {number.name for number in numbers()}
    for number in metric.further:
        if number.name in names:
            raise ValueError(f"There is a number called {number.name!r} already.")
    return METRICS.register(metric.name, metric)


def shown(place: str) -> tuple[Metric, ...]:
    """The metrics that are shown at a place, one of `PLACES`."""
    return tuple(metric for metric in METRICS.values() if place in metric.shown)


def numbers() -> Iterator[Number]:
    """Every number that a report can have, in the order in which tables show them."""
    of_metrics = (metric.numbers for metric in METRICS.values())
    return itertools.chain(*of_metrics, SAMPLE_NUMBERS, SPECTRUM)


def find_number(name: str) -> Number | None:
    """The number called `name`, or None."""
    return next((number for number in numbers() if number.name == name), None)


def _trial_mean(name: str) -> Callable[[MinimumReport], float | None]:
    def mean(report: MinimumReport) -> float | None:
        values = report.trials.get(name)
        return None if values is None else float(np.mean(values))

    return mean


# What every sample gives, whichever metrics are selected.
SAMPLE_NUMBERS = (
    Number(
        name="train_loss",
        title="train loss",
        symbol="L(S, w_0)",
        equation="section 4: mean cross-entropy over the drawn examples",
        unit="nat",
        derive=_trial_mean("train_loss"),
    ),
    Number(
        name="train_accuracy",
        title="train accuracy",
        equation="fraction of the drawn examples that are classified correctly",
        derive=_trial_mean("train_accuracy"),
    ),
)


def _eigenvalue(percent: int) -> Callable[[TrialSpectrum], float]:
    def quantile(trial: TrialSpectrum) -> float:
        return trial.scale * float(np.quantile(trial.scaled_eigenvalues, percent / 100))

    return quantile


# The eigenvalues of xi by their quantiles, for the picture of a report: they come with the largest,
# the spectral radius.
SPECTRUM = tuple(
    Number(
        name=f"eigenvalue_{percent}_percent",
        title=f"eigenvalue, {percent} % quantile",
        equation=f"mean over T of the {percent} % quantile of the eigenvalues of xi^t",
        unit="nat^2",
        compute=_eigenvalue(percent),
    )
    for percent in (0, 5, 10, 25, 50, 75, 90, 95)
)
