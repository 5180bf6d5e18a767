"""Rank correlations against the definitions, written out."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from infomcr_tf.experiments.ranking import granulated_tau, rank_correlation


def tau_by_pairs(x, y):
    """Kendall's tau where there are no ties: concordant minus discordant pairs."""
    pairs = itertools.combinations(zip(x, y, strict=True), 2)
    signs = [np.sign((a - b) * (c - d)) for (a, c), (b, d) in pairs]
    return sum(signs) / len(signs)


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(6)), st.permutations(range(6)))
def test_tau_counts_pairs(x, y):
    # One hyperparameter and one seed: a single group.
    factors = [{"a": i, "seed": 0} for i in range(6)]
    assert granulated_tau(x, y, factors) == pytest.approx(tau_by_pairs(x, y))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=9))
def test_tau_with_ties_is_scipys(points):
    x, y = zip(*points, strict=True)
    expected = stats.kendalltau(x, y).statistic
    found = rank_correlation(x, y, [{"a": i, "seed": 0} for i in range(len(x))])
    np.testing.assert_allclose(found.tau, expected, atol=1e-12, equal_nan=True)


def test_interval_is_that_of_scipys_bootstrap():
    generator = np.random.default_rng(4)
    x = np.arange(15)
    y = x + generator.normal(scale=5, size=15)
    found = rank_correlation(x, y, [{"a": i, "seed": 0} for i in range(15)])
    expected = stats.bootstrap(
        (x, y),
        lambda a, b: stats.kendalltau(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=999,
        method="percentile",
        rng=generator,
    ).confidence_interval
    # Percentiles of 999 resamples of a statistic that spreads over 0.6: a few hundredths.
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.08)


def test_both_forms_agree_on_a_single_group():
    x, y = [3, 1, 2, 5, 4], [1, 2, 3, 4, 5]
    found = rank_correlation(x, y, [{"a": i, "seed": 0} for i in range(5)])
    assert found.tau == pytest.approx(tau_by_pairs(x, y))
    assert found.granulated == pytest.approx(found.tau)


def test_granulated_tau_is_the_mean_over_groups_then_over_hyperparameters():
    factors = [
        {"width": width, "rate": rate, "seed": seed}
        for width in (1, 2)
        for rate in (1, 2, 3)
        for seed in (0, 1)
    ]
    generator = np.random.default_rng(0)
    x, y = generator.permutation(12), generator.permutation(12)
    means = []
    for axis, others in (("width", ("rate", "seed")), ("rate", ("width", "seed"))):
        taus = []
        for values in itertools.product(*({f[o] for f in factors} for o in others)):
            group = [
                i
                for i, f in enumerate(factors)
                if all(f[o] == v for o, v in zip(others, values, strict=True))
            ]
            assert len({factors[i][axis] for i in group}) == len(group)
            taus.append(tau_by_pairs(x[group], y[group]))
        means.append(np.mean(taus))
    assert granulated_tau(x, y, factors) == pytest.approx(np.mean(means))


def test_granulated_tau_does_not_see_differences_between_seeds():
    """Within each seed the metric is right; across seeds it is wrong (Simpson's paradox)."""
    factors = [{"a": a, "seed": seed} for seed in range(3) for a in range(3)]
    metric = [a - 10 * seed for seed in range(3) for a in range(3)]
    error = [a + 10 * seed for seed in range(3) for a in range(3)]
    found = rank_correlation(metric, error, factors)
    assert found.granulated == 1
    assert found.tau < 0


def test_intervals_contain_a_strong_correlation_and_shrink_with_more_runs():
    generator = np.random.default_rng(1)
    widths = []
    for count in (8, 40):
        x = np.arange(count)
        y = x + generator.normal(size=count)
        found = rank_correlation(x, y, [{"a": i, "seed": 0} for i in range(count)])
        assert found.low <= found.tau <= found.high
        assert found.low > 0
        widths.append(found.high - found.low)
    assert widths[1] < widths[0]


def test_singular_matrices_rank_lowest_and_unmeasured_runs_are_left_out():
    factors = [{"a": i, "seed": 0} for i in range(4)]
    found = rank_correlation([-math.inf, 1.0, 2.0, math.nan], [1.0, 2.0, 3.0, 0.0], factors)
    assert (found.tau, found.num_runs) == (1, 3)


def test_a_constant_metric_has_no_tau():
    factors = [{"a": i, "seed": 0} for i in range(4)]
    found = rank_correlation([1.0] * 4, [1.0, 2.0, 3.0, 4.0], factors)
    assert math.isnan(found.tau)
    assert math.isnan(found.granulated)
    assert math.isnan(found.low)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"one entry per run. Received: 2, 3 and 2"):
        rank_correlation([1, 2], [1, 2, 3], [{}, {}])
