"""Whether a metric orders minima as their errors do: Kendall's tau, plain and granulated."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
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
            "`metric`, `target` and `factors` must have one entry per run. Received: "
            f"{len(metric)}, {len(target)} and {len(factors)}."
        )
    x, y = np.asarray(metric, np.float64), np.asarray(target, np.float64)
    use = ~np.isnan(x) & np.isfinite(y)
    pairs = _Pairs(x[use], y[use])
    groups = _groups([factor for factor, used in zip(factors, use, strict=True) if used])
    count = int(use.sum())
    once = np.ones((1, count))
    tau, granulated = pairs.tau(once)[0], pairs.granulated(once, groups)[0]
    interval = granulated_interval = (math.nan, math.nan)
    if count >= 3:
        # How often each run is drawn in each resample.
        drawn = np.random.default_rng(seed).multinomial(
            count, np.full(count, 1 / count), size=_RESAMPLES
        )
        interval = _percentiles(pairs.tau(drawn), confidence)
        granulated_interval = _percentiles(pairs.granulated(drawn, groups), confidence)
    return RankCorrelation(
        float(tau), *interval, float(granulated), *granulated_interval, num_runs=count
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
    pairs = _Pairs(np.asarray(metric, np.float64), np.asarray(target, np.float64))
    return float(pairs.granulated(np.ones((1, len(factors))), _groups(factors))[0])


class _Pairs:
    """Which pairs of runs metric and target order alike, for many weightings of the runs.

    With s_ij the sign of x_i - x_j and t_ij that of y_i - y_j, Kendall's tau-b of runs that count
    c_i times is `sum c_i c_j s_ij t_ij / sqrt(sum c_i c_j s_ij^2 sum c_i c_j t_ij^2)`: copies of a
    run are ties.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        signs = []
        for values in (x, y):
            ranks = stats.rankdata(values)  # differences of infinities would be nan
            signs.append(np.sign(ranks[:, np.newaxis] - ranks))
        self._x, self._y = signs

    def tau(self, counts: np.ndarray, group: np.ndarray | None = None) -> np.ndarray:
        """tau-b for each row of `counts` [R, n], among the runs of `group`; nan without pairs."""
        own = np.arange(len(self._x)) if group is None else group
        c = np.asarray(counts, np.float64)[:, own]
        s, t = (signs[np.ix_(own, own)] for signs in (self._x, self._y))
        agreement, x_pairs, y_pairs = (
            np.einsum("ri,ij,rj->r", c, matrix, c, optimize=True)
            for matrix in (s * t, s * s, t * t)
        )
        pairs = np.sqrt(x_pairs * y_pairs)
        return np.divide(agreement, pairs, out=np.full(len(c), np.nan), where=pairs > 0)

    def granulated(self, counts: np.ndarray, groups: list[list[np.ndarray]]) -> np.ndarray:
        """The mean over hyperparameters of the mean over their groups, where these have a tau."""
        if not groups:
            return np.full(len(counts), np.nan)
        axes = [_mean_of_numbers([self.tau(counts, group) for group in axis]) for axis in groups]
        return _mean_of_numbers(axes)


def _mean_of_numbers(values: list[np.ndarray]) -> np.ndarray:
    """Mean along the first axis of those that are not nan; nan where there are none."""
    array = np.array(values)
    count = np.sum(~np.isnan(array), axis=0)
    total = np.nansum(array, axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


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


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """The interval of resampled values; resamples without a tau are left out."""
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, math.nan
    tail = 50 * (1 - confidence)
    return float(np.percentile(values, tail)), float(np.percentile(values, 100 - tail))
