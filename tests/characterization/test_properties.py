"""Invariances of the Gram matrix and the metrics of a network, on data that hypothesis draws."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infomcr_tf.characterization import METRICS, GradientEngine
from infomcr_tf.characterization.trial_spectrum import TrialSpectrum

N = 8


def make_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(7, activation="tanh"), keras.layers.Dense(4)]
    )


@functools.cache
def engine(chunk_size=None):
    """One engine for each chunk size: tracing is what takes the time."""
    return GradientEngine(make_model(), chunk_size=chunk_size)


def draw_examples(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, 6)).astype(np.float32), rng.integers(4, size=N)


def metrics(gram):
    spectrum = TrialSpectrum(gram)
    metrics = [metric for metric in METRICS.values() if metric.needs == "gram"]
    return {n.name: n.compute(spectrum) for metric in metrics for n in metric.of_trials}


examples = st.builds(draw_examples, st.integers(0, 2**32))


def assert_close(after, before):
    """Equal up to float32 rounding of J, whose rows (63 weights) are off by 1e-6 of their norm.

    To first order an error of the cosines changes the logarithm of their determinant by its
    multiple with the sum of the inverse eigenvalues.
    """
    error = 5e-6 * np.sum(1 / before.eigenvalues)
    before, after = metrics(before), metrics(after)
    for name, value in before.items():
        if name == "gamma_hat":
            assert after[name] == pytest.approx(value, abs=error), name
        else:
            assert after[name] == pytest.approx(value, rel=1e-4), name


@given(examples, st.sampled_from([1, 3]))
@settings(max_examples=20, deadline=None)
def test_chunking(data, chunk_size):
    assert_close(engine(chunk_size).gram(*data), engine().gram(*data))


@given(examples, st.permutations(range(N)))
@settings(max_examples=20, deadline=None)
def test_permutation(data, order):
    x, y = data
    before, after = engine().gram(x, y), engine().gram(x[order], y[order])
    scale = before.xi.diagonal().max()
    np.testing.assert_allclose(after.xi, before.xi[np.ix_(order, order)], atol=1e-5 * scale)
    assert_close(after, before)


@given(examples, st.sets(st.integers(0, N - 1), min_size=1, max_size=N - 1))
@settings(max_examples=20, deadline=None)
def test_interlacing_on_nested_samples(data, chosen):
    """lambda_r <= nu_r <= lambda_(r+n-k) (Theorem 3), and the trace of a part is the smaller."""
    x, y = data
    chosen = sorted(chosen)
    lambdas = np.linalg.eigvalsh(engine().gram(x, y).xi)
    # The part is computed on its own, in a batch of another size.
    padded = [*chosen, *[chosen[0]] * (N - len(chosen))]
    part = engine().gram(x[padded], y[padded]).xi[: len(chosen), : len(chosen)]
    nus = np.linalg.eigvalsh(part)
    rounding = 1e-5 * lambdas[-1]
    for r, nu in enumerate(nus):
        assert lambdas[r] - rounding <= nu <= lambdas[r + N - len(chosen)] + rounding


@given(examples)
@settings(max_examples=20, deadline=None)
def test_arithmetic_and_geometric_mean(data):
    gram = engine().gram(*data)
    got = metrics(gram)
    rounding = 1e-9 * got["trace"]
    assert -rounding <= got["am_gm_gap"] <= got["am_gm_bound"] + rounding
    assert got["gamma_hat"] / N <= np.log(got["trace"]) + 1e-9
    assert got["spectral_radius"] <= N * got["trace"] * (1 + 1e-9)
    assert got["spectral_radius"] >= got["trace"] * (1 - 1e-9)


@given(examples, st.integers(-20, 20))
@settings(max_examples=20, deadline=None)
def test_scaling_of_the_gradients(data, exponent):
    """A linear network at w = 0 without bias: gradients are as large as its inputs."""
    x, y = data
    c = 2.0**exponent
    linear = zero_network()
    before, after = linear.gram(x, y), linear.gram(np.float32(c) * x, y)
    assert after.rank == before.rank
    np.testing.assert_allclose(
        after.log_norms, before.log_norms + np.log(c), rtol=0, atol=1e-12 * abs(exponent) + 1e-12
    )
    np.testing.assert_allclose(after.cosines, before.cosines, atol=1e-12)


@functools.cache
def zero_network():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, use_bias=False)])
    model.set_weights([np.zeros((6, 4))])
    return GradientEngine(model)
