"""The samples S^t."""

import numpy as np
from scipy import stats

from infomcr_tf.characterization.trials import sample_indices


def test_without_replacement_within_range_and_reproducible():
    for trial in range(20):
        indices = sample_indices(30, 25, trial, seed=1)
        assert len(set(indices.tolist())) == 25
        assert indices.min() >= 0
        assert indices.max() < 30
        np.testing.assert_array_equal(indices, sample_indices(30, 25, trial, seed=1))


def test_trials_and_seeds_differ():
    samples = {
        tuple(sample_indices(1000, 10, trial, seed=seed))
        for trial in range(20)
        for seed in range(5)
    }
    assert len(samples) == 100


def test_whole_set_is_a_permutation():
    np.testing.assert_array_equal(np.sort(sample_indices(12, 12, 0, seed=0)), np.arange(12))


def test_every_example_is_as_likely_and_trials_are_independent():
    """Chi-square of how often each of 20 examples is drawn in 2,000 trials of 5.

    Without replacement the counts vary less than the chi-square law says, so p is not small; the
    seed is fixed, so the test either fails always or never.
    """
    counts = np.zeros(20)
    together = 0
    for trial in range(2000):
        indices = sample_indices(20, 5, trial, seed=7)
        counts[indices] += 1
        following = sample_indices(20, 5, trial + 1, seed=7)
        together += len(set(indices.tolist()) & set(following.tolist()))
    assert stats.chisquare(counts).pvalue > 1e-3
    # Independent samples share 5 * 5 / 20 examples in the mean, hypergeometric variance 0.74.
    assert abs(together / 2000 - 1.25) < 4 * np.sqrt(0.74 / 2000)


def test_stored_order():
    np.testing.assert_array_equal(
        sample_indices(100, 10, 3, seed=0, in_stored_order=True), np.arange(30, 40)
    )
