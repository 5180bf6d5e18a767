"""Whether a metric orders minima as their errors do: Kendall's tau, plain and granulated."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

_RESAMPLES = 999


@dataclasses.dataclass(frozen=True)
class RankCorrelation:
    """Kendall's tau between a metric and a target over runs.

    Attributes:
        tau: Kendall's tau-b; 1 where the metric orders the runs as the target does, -1 where it
            reverses them, nan where either is constant.
        low: lower end of the bootstrap interval of `tau` (percentiles, over runs); nan for fewer
            than three runs.
        high: its upper end.
        granulated: see `granulated_tau`.
        granulated_low: lower end of its interval.
        granulated_high: upper end.
        num_runs: how many runs had a finite metric and target.
    """

    tau: float
    low: float
    high: float
    granulated: float
    granulated_low: float
    granulated_high: float
    num_runs: int


def rank_correlation(
    metric: Sequence[float],
    target: Sequence[float],
    factors: Sequence[Mapping[str, Any]],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> RankCorrelation:
    """Kendall's tau with bootstrap intervals.

    Args:
        metric: one value per run; runs with a non-finite value are left out (-inf, a singular
            matrix, is kept: it is the lowest rank).
        target: test error or generalisation gap of the same runs.
        factors: each run's hyperparameters, and its seed, by name.
        confidence: level of the intervals.
        seed: of the resampling.

    Raises:
        ValueError: if the lengths differ.
    """
    if not len(metric) == len(target) == len(factors):
        raise ValueError(
            "`metric`, `target` and `factors` should have one entry per run. Received: "
            f"{len(metric)}, {len(target)} and {len(factors)}."
        )
    x, y = np.asarray(metric, np.float64), np.asarray(target, np.float64)
    use = ~np.isnan(x) & np.isfinite(y)
    x, y = x[use], y[use]
    kept = [factor for factor, used in zip(factors, use, strict=True) if used]
    groups = _groups(kept)

    def tau(index: np.ndarray) -> float:
        return _tau(x[index], y[index])

    def granulated(index: np.ndarray) -> float:
        # A run that was drawn k times counts k times within each of its groups.
        counts = np.bincount(index, minlength=len(x))
        return _granulated([[np.repeat(g, counts[g]) for g in axis] for axis in groups], x, y)

    everything = np.arange(len(x))
    low, high = _interval(tau, len(x), confidence, seed)
    granulated_low, granulated_high = _interval(granulated, len(x), confidence, seed)
    return RankCorrelation(
        tau(everything), low, high, granulated(everything), granulated_low, granulated_high, len(x)
    )


def granulated_tau(
    metric: Sequence[float], target: Sequence[float], factors: Sequence[Mapping[str, Any]]
) -> float:
    """Jiang et al. (2020), Eq. 5: tau within groups that differ in one hyperparameter only.

    For each hyperparameter the runs that agree in everything else, the seed included, form groups;
    tau is averaged over its groups, then over the hyperparameters. The seed itself is no
    hyperparameter. nan where no group has two runs.

    Args:
        metric: one value per run.
        target: of the same runs.
        factors: each run's hyperparameters, and under "seed" its seed.
    """
    return _granulated(_groups(factors), np.asarray(metric, float), np.asarray(target, float))


def _groups(factors: Sequence[Mapping[str, Any]]) -> list[list[np.ndarray]]:
    """Per hyperparameter, the groups of runs that differ in nothing else."""
    names = list(dict.fromkeys(name for factor in factors for name in factor))
    axes = []
    for axis in names:
        if axis == "seed":
            continue
        groups: dict[tuple, list[int]] = {}
        for i, factor in enumerate(factors):
            rest = tuple(repr(factor.get(name)) for name in names if name != axis)
            groups.setdefault(rest, []).append(i)
        several = [np.array(group) for group in groups.values() if len(group) > 1]
        if several:
            axes.append(several)
    return axes


def _granulated(groups: list[list[np.ndarray]], x: np.ndarray, y: np.ndarray) -> float:
    means = []
    for axis in groups:
        taus = [value for g in axis if not np.isnan(value := _tau(x[g], y[g]))]
        if taus:
            means.append(np.mean(taus))
    return float(np.mean(means)) if means else float("nan")


def _tau(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2:
        return float("nan")
    return float(stats.kendalltau(x, y).statistic)


def _interval(
    statistic: Callable[[np.ndarray], float], count: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentiles over resampled runs; resamples without any two different runs are left out."""
    if count < 3:
        return float("nan"), float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        drawn = stats.bootstrap(
            (np.arange(count),), lambda index: statistic(index.astype(int)), vectorized=False,
            n_resamples=_RESAMPLES, confidence_level=confidence, method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution  # fmt: skip
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return float("nan"), float("nan")
    tail = 50 * (1 - confidence)
    return float(np.percentile(drawn, tail)), float(np.percentile(drawn, 100 - tail))
