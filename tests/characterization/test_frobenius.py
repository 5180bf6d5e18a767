"""Appendix D's sampled estimate of the Frobenius norm."""

import numpy as np
import pytest
from gradients.small_networks import conv_net, images

from infomcr_tf.characterization import GradientEngine, per_example_jacobian
from infomcr_tf.characterization.metrics import sampled_frobenius_norm


class Rows:
    """The engine's interface to a given J, in blocks of columns."""

    def __init__(self, J, width):
        self.J, self.width = J, width

    def row_blocks(self, x, labels):
        norms = np.linalg.norm(self.J, axis=1, keepdims=True)
        for start in range(0, self.J.shape[1], self.width):
            columns = slice(start, min(start + self.width, self.J.shape[1]))
            yield columns, (self.J / norms)[:, columns], np.log(norms[:, 0])


def estimate(engine, num_parameters, seed, num_entries=2000, x=None, labels=None):
    return sampled_frobenius_norm(
        engine.row_blocks(x, labels),
        num_parameters=num_parameters,
        generator=np.random.default_rng(seed),
        num_entries=num_entries,
    )


def test_unbiased_and_of_the_right_variance():
    """200 estimates of 2,000 entries: mean and spread as for independent uniform entries."""
    J = np.random.default_rng(0).normal(size=(5, 12)) * np.arange(1, 6)[:, None]
    entries = np.stack([np.outer(g, g) ** 2 for g in J]) * 12**2
    exact = np.mean(np.sum(J**2, axis=1) ** 2)
    assert entries.mean() == pytest.approx(exact, rel=1e-12)
    values = np.array([estimate(Rows(J, 12), 12, seed) for seed in range(200)])
    error = entries.std() / np.sqrt(2000)
    # Fixed seeds: four standard errors of the mean, and of the standard deviation of 200 values.
    assert abs(values.mean() - exact) < 4 * error / np.sqrt(200)
    assert abs(values.std() / error - 1) < 4 / np.sqrt(2 * 200)


def test_blocks_of_columns_do_not_matter():
    J = np.random.default_rng(1).normal(size=(4, 23))
    whole = estimate(Rows(J, 23), 23, seed=3)
    for width in (1, 5, 22):
        assert estimate(Rows(J, width), 23, seed=3) == pytest.approx(whole, rel=1e-12)


def test_with_the_real_engine():
    model = conv_net()
    x, y = images(6)
    J = per_example_jacobian(model, x, y).astype(np.float64)
    W = J.shape[1]
    got = estimate(GradientEngine(model), W, seed=0, num_entries=5000, x=x, labels=y)
    # Float32 rounding of J, to the fourth power.
    assert got == pytest.approx(estimate(Rows(J, W), W, seed=0, num_entries=5000), rel=1e-5)
