"""The metrics of one sample, against the definitions applied to J itself, and their invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infomcr_tf.characterization import METRICS
from infomcr_tf.characterization.trial_spectrum import TrialSpectrum
from infomcr_tf.gradients.gram import GramMatrix


def gram_of(J, log_scale=0.0):
    """What the engine gives for `exp(log_scale) J`."""
    norms = np.linalg.norm(J, axis=1)
    safe = np.where(norms > 0, norms, 1)
    unit = J / safe[:, None]
    with np.errstate(divide="ignore"):
        log_norms = np.log(norms) + log_scale
    n = len(J)
    return GramMatrix(
        cosines=unit @ unit.T,
        log_norms=log_norms,
        losses=np.zeros(n),
        correct=np.ones(n, bool),
        kept=np.arange(n),
        epsilon=2.0**-53,
    )


OF_THE_GRAM_MATRIX = tuple(name for name, metric in METRICS.items() if metric.needs == "gram")


def measure(J, log_scale=0.0, names=OF_THE_GRAM_MATRIX):
    spectrum = TrialSpectrum(gram_of(J, log_scale))
    return {n.name: n.compute(spectrum) for name in names for n in METRICS[name].of_trials}


def random_jacobian(seed, n, W, spread=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, W)) * np.exp(spread * rng.normal(size=(n, 1)))


# Up to 8 rows and at least twice as many columns: xi is well conditioned (condition below 1e6 even
# with the rows' spread), so that float64 leaves ten digits.
jacobians = st.builds(
    random_jacobian, st.integers(0, 2**32), st.integers(2, 8), st.integers(16, 40)
)


@given(jacobians)
@settings(max_examples=50, deadline=None)
def test_definitions(J):
    n = len(J)
    fisher = J.T @ J / n
    eigenvalues = np.linalg.eigvalsh(J @ J.T)
    got = measure(J)
    assert got["gamma_hat"] == pytest.approx(np.linalg.slogdet(J @ J.T)[1], rel=1e-9, abs=1e-9)
    assert got["spectral_radius"] == pytest.approx(np.linalg.norm(J, 2) ** 2, rel=1e-10)
    entries = [np.sum(np.outer(g, g) ** 2) for g in J]
    assert got["frobenius_norm"] == pytest.approx(np.mean(entries), rel=1e-10)
    assert got["frobenius_norm_cross"] == pytest.approx(np.sum(fisher**2), rel=1e-10)
    assert got["trace"] == pytest.approx(np.trace(fisher), rel=1e-10)
    assert got["rank"] == np.linalg.matrix_rank(J)
    lambdas = eigenvalues / n
    gap = lambdas.mean() - np.prod(lambdas) ** (1 / n)
    assert got["am_gm_gap"] == pytest.approx(gap, rel=1e-8, abs=1e-10 * lambdas.mean())
    assert got["am_gm_bound"] == pytest.approx(np.sqrt(n - 1) * lambdas.std(), rel=1e-8)


@given(jacobians, st.floats(-200, 150))
@settings(max_examples=50, deadline=None)
def test_scaling_gradients_by_c(J, log_c):
    """gamma_hat moves by 2 N' ln c, the others by their power of c; c^4 stays within float64."""
    before, after = measure(J), measure(J, log_c)
    n = len(J)
    assert after["gamma_hat"] == pytest.approx(before["gamma_hat"] + 2 * n * log_c, abs=1e-9 * n)
    powers = {
        "spectral_radius": 2,
        "trace": 2,
        "am_gm_gap": 2,
        "am_gm_bound": 2,
        "frobenius_norm": 4,
        "frobenius_norm_cross": 4,
    }
    for name, power in powers.items():
        # Results below the normal range of float64 (about e^-708) have fewer digits.
        if np.log(before[name]) + power * log_c > -700:
            assert np.log(after[name]) == pytest.approx(
                np.log(before[name]) + power * log_c, abs=1e-9
            ), name
    assert after["rank"] == before["rank"]


@given(jacobians, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_order_of_examples_does_not_matter(J, random):
    order = list(range(len(J)))
    random.shuffle(order)
    before, after = measure(J), measure(J[order])
    for name, value in before.items():
        assert after[name] == pytest.approx(value, rel=1e-8, abs=1e-9), name


@given(jacobians)
@settings(max_examples=50, deadline=None)
def test_arithmetic_and_geometric_mean(J):
    """0 <= gap <= sqrt(n-1) sigma (section 6), and gamma_hat / N' <= ln(tr xi / N')."""
    got = measure(J)
    rounding = 1e-12 * got["trace"]
    assert -rounding <= got["am_gm_gap"] <= got["am_gm_bound"] + rounding
    assert got["gamma_hat"] / len(J) <= np.log(got["trace"]) + 1e-12


def test_the_am_gm_bound_is_attained():
    """Two eigenvalues, one of them zero: gap = mean = sigma."""
    J = np.array([[1.0, 0.0], [1.0, 0.0]])
    got = measure(J)
    assert got["am_gm_gap"] == pytest.approx(0.5, rel=1e-12)
    assert got["am_gm_bound"] == pytest.approx(0.5, rel=1e-12)


@given(jacobians, st.data())
@settings(max_examples=50, deadline=None)
def test_interlacing_on_nested_samples(J, data):
    """Theorem 3 of appendix C for the scaled eigenvalues of a sample and of a part of it."""
    n = len(J)
    k = data.draw(st.integers(1, n - 1))
    whole = TrialSpectrum(gram_of(J))
    part = TrialSpectrum(gram_of(J[:k]))
    lambdas = whole.scaled_eigenvalues * whole.scale
    nus = part.scaled_eigenvalues * part.scale
    rounding = 1e-12 * lambdas[-1]
    for r in range(k):
        assert lambdas[r] - rounding <= nus[r] <= lambdas[r + n - k] + rounding


@given(jacobians)
@settings(max_examples=25, deadline=None)
def test_one_more_example_multiplies_the_determinant_by_its_distance(J):
    """|xi_n| / |xi_(n-1)| is the squared distance of J_n from the span of the others."""
    coefficients = np.linalg.lstsq(J[:-1].T, J[-1], rcond=None)[0]
    distance = np.linalg.norm(J[-1] - coefficients @ J[:-1])
    names = ("gamma_hat",)
    step = measure(J, names=names)["gamma_hat"] - measure(J[:-1], names=names)["gamma_hat"]
    assert step == pytest.approx(2 * np.log(distance), abs=1e-7)


def test_repeated_example_is_singular_and_dead_network_too():
    J = random_jacobian(0, 5, 30)
    J[3] = 7 * J[1]
    got = measure(J)
    assert got["gamma_hat"] == -np.inf
    assert got["rank"] == 4
    dead = measure(np.zeros((4, 9)))
    assert dead["gamma_hat"] == -np.inf
    assert dead["rank"] == 0
    for name in ("spectral_radius", "trace", "frobenius_norm", "frobenius_norm_cross", "am_gm_gap"):
        assert dead[name] == 0, name


def test_gradients_beyond_the_range_of_floats():
    """Norms of e^-400: xi has no floating-point value, gamma_hat has."""
    J = random_jacobian(1, 6, 30)
    expected = np.linalg.slogdet(J @ J.T)[1] - 2 * 6 * 400
    assert measure(J, -400.0)["gamma_hat"] == pytest.approx(expected, rel=1e-12)
