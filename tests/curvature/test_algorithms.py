"""Eigenvalues, trace, norms, density and determinant, on matrices whose answers are known."""

import sys
import warnings

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator

from infomcr_tf.curvature import (
    log_determinant,
    spectral_density,
    squared_frobenius_norm,
    top_eigenvalues,
    trace,
    trace_and_squared_norm,
)

QUIET = {"progress": False}


class Counted(LinearOperator):
    """A dense symmetric matrix that counts its products."""

    def __init__(self, matrix):
        self.matrix, self.products = matrix, 0
        super().__init__(np.dtype(np.float64), matrix.shape)

    def _matvec(self, v):
        self.products += 1
        return self.matrix @ v.ravel()

    def fingerprint(self):
        return str(hash(self.matrix.tobytes()))


def matrix(eigenvalues, seed=0):
    """A dense symmetric matrix with these eigenvalues, and its eigenvectors."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(len(eigenvalues),) * 2))
    return Counted(basis * eigenvalues @ basis.T), basis


def network_like(size=300, seed=0):
    """A bulk near zero of both signs and a few outliers, as of trained networks."""
    rng = np.random.default_rng(seed)
    return np.concatenate([0.1 * rng.normal(size=size - 5), [-3.0, 4.0, 6.0, 7.5, 20.0]])


@pytest.mark.parametrize(
    ("which", "k", "expected"),
    [("LA", 3, [20, 7.5, 6]), ("SA", 1, [-3]), ("LM", 5, [20, 7.5, 6, 4, -3])],
)
def test_top_eigenvalues(which, k, expected):
    operator, _ = matrix(network_like())
    values, vectors = top_eigenvalues(operator, k, which=which, tol=1e-3, **QUIET)
    # Residuals of 1e-3 lambda in vectors are some 1e-6 lambda^2 / gap in values.
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    residuals = np.linalg.norm(operator.matrix @ vectors - vectors * values, axis=0)
    assert (residuals <= 1.001e-3 * np.abs(values)).all()
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(k), atol=1e-12)
    assert operator.products <= 25


def test_no_more_products_than_the_tolerance_needs():
    counts = []
    for tol in (1e-1, 1e-3, 1e-6, 1e-9):
        operator, _ = matrix(network_like())
        value, _ = top_eigenvalues(operator, tol=tol, **QUIET)
        assert value[0] == pytest.approx(20, rel=tol)
        counts.append(operator.products)
    assert counts == sorted(counts)
    assert counts[1] <= 8


def test_hard_spectra():
    # Close together, and more of them than basis vectors: ARPACK goes on.
    operator, _ = matrix(np.linspace(0, 1, 200))
    values, _ = top_eigenvalues(operator, 3, tol=1e-8, max_basis=15, **QUIET)
    np.testing.assert_allclose(values, [1, 198 / 199, 197 / 199], rtol=1e-7)
    for eigenvalues in (np.zeros(100), np.ones(100), np.repeat([0.0, 5.0], [98, 2])):
        operator, _ = matrix(eigenvalues)
        values, vectors = top_eigenvalues(operator, 2, max_basis=20, **QUIET)
        assert values[0] == pytest.approx(eigenvalues[-1])
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(2), atol=1e-10)
    for size, k in ((1, 1), (4, 4), (70, 70)):
        operator, _ = matrix(np.arange(1.0, size + 1))
        values, _ = top_eigenvalues(operator, k, **QUIET)
        np.testing.assert_allclose(values, np.arange(size, size - k, -1.0))


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_trace_and_norm_are_unbiased_with_an_honest_error(method):
    eigenvalues = network_like(100)
    operator, _ = matrix(eigenvalues)
    exact = eigenvalues.sum(), (eigenvalues**2).sum()
    runs = [
        trace_and_squared_norm(operator, num_probes=30, method=method, seed=s, **QUIET)
        for s in range(60)
    ]
    for index, expected in enumerate(exact):
        values = np.array([run[index].value for run in runs])
        errors = np.array([run[index].standard_error for run in runs])
        # The mean of 60 runs is off by 4 of its standard deviations once in 16,000 times.
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(60)
        # A standard deviation from 10 samples has a relative error near 0.25, of 60 of them 0.1.
        assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.5)
    operator.products = 0
    assert trace(operator, method=method, **QUIET) == runs[0][0]
    assert operator.products == 30
    assert squared_frobenius_norm(operator, method=method, **QUIET) == runs[0][1]


def test_variance_reduction_reduces():
    operator, _ = matrix(network_like())
    errors = {
        method: trace(operator, num_probes=30, method=method, **QUIET).standard_error
        for method in ("hutchinson", "hutch++")
    }
    assert errors["hutch++"] < 0.5 * errors["hutchinson"]


def test_small_and_singular_matrices_are_exact():
    operator, _ = matrix(np.arange(1.0, 11.0))
    for kind, expected in ((trace, 55), (squared_frobenius_norm, 385)):
        estimate = kind(operator, num_probes=10, **QUIET)
        assert (estimate.value, estimate.standard_error) == (pytest.approx(expected), 0)
    low_rank, _ = matrix(np.repeat([0.0, 2.0, 3.0], [95, 3, 2]))
    estimate = trace(low_rank, num_probes=30, **QUIET)
    assert estimate.value == pytest.approx(12)
    assert estimate.standard_error < 1e-10
    assert trace(matrix(np.zeros(50))[0], **QUIET) == (0, 0)


def test_spectral_density_integrates_to_one_and_has_the_moments():
    eigenvalues = network_like(100)
    operator, _ = matrix(eigenvalues)
    density = spectral_density(operator, num_probes=40, num_steps=30, **QUIET)
    step = density.grid[1] - density.grid[0]
    assert density.density.sum() * step == pytest.approx(1, abs=1e-6)
    for power in (1, 2):
        estimate = density.expectation(lambda t, power=power: t**power)
        assert abs(estimate.value - (eigenvalues**power).sum()) < 4 * estimate.standard_error
    # The outliers are found where they are, and all eigenvalues by as many steps.
    np.testing.assert_allclose([nodes[-1] for nodes in density.nodes], 20, rtol=1e-10)
    whole = spectral_density(operator, num_steps=200, **QUIET)
    np.testing.assert_allclose(whole.nodes[0], np.sort(eigenvalues), atol=1e-10)


def test_spectral_density_of_few_eigenvalues_and_of_none():
    operator, _ = matrix(np.repeat([1.0, 2.0], 20))
    density = spectral_density(operator, num_steps=30, sigma=0.01, **QUIET)
    np.testing.assert_allclose(density.nodes[0], [1, 2])
    for value in (0.0, 3.0):
        density = spectral_density(matrix(np.full(40, value))[0], **QUIET)
        assert np.isfinite(density.density).all()
        np.testing.assert_allclose(density.nodes[0], [value], atol=1e-12)


def test_plot_is_logarithmic(tmp_path):
    operator, _ = matrix(network_like())
    picture = spectral_density(operator, num_steps=20, **QUIET).plot(tmp_path / "density.png")
    axes = picture.axes[0]
    assert axes.get_yscale() == "log"
    assert (tmp_path / "density.png").read_bytes().startswith(b"\x89PNG")
    assert spectral_density(operator, num_steps=5, **QUIET).plot(ax=axes) is picture
    assert len(axes.lines) == 2


def test_log_determinant():
    eigenvalues = np.abs(network_like(100))
    operator, _ = matrix(eigenvalues)
    estimate = log_determinant(operator, damping=0.1, num_probes=40, num_steps=50, **QUIET)
    assert abs(estimate.value - np.log(eigenvalues + 0.1).sum()) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.1 * abs(estimate.value)
    # All eigenvalues equal: exact.
    estimate = log_determinant(matrix(np.full(40, 2.0))[0], damping=1.0, **QUIET)
    assert estimate.value == pytest.approx(40 * np.log(3))
    with pytest.raises(ValueError, match="be above 3 here"):
        log_determinant(matrix(network_like())[0], damping=0.5, **QUIET)


@pytest.mark.parametrize(
    "work",
    [
        lambda operator, **k: trace(operator, num_probes=12, **k),
        lambda operator, **k: trace(operator, num_probes=12, method="hutchinson", **k),
        lambda operator, **k: spectral_density(operator, num_probes=4, num_steps=3, **k).nodes,
    ],
    ids=["hutch++", "hutchinson", "density"],
)
def test_runs_resume_at_the_probe_they_were_stopped_at(work, tmp_path):
    expected = work(matrix(network_like())[0], **QUIET)
    operator, _ = matrix(network_like())
    healthy = operator._matvec

    def dies(v):
        if operator.products == 10:
            raise KeyboardInterrupt
        return healthy(v)

    operator._matvec = dies
    with pytest.raises(KeyboardInterrupt):
        work(operator, checkpoint=tmp_path, **QUIET)
    operator._matvec, operator.products = healthy, 0
    np.testing.assert_array_equal(work(operator, checkpoint=tmp_path, **QUIET), expected)
    assert 0 < operator.products <= 3
    operator.products = 0
    np.testing.assert_array_equal(work(operator, checkpoint=tmp_path, **QUIET), expected)
    assert operator.products == 0
    # Another seed or another matrix starts anew.
    work(operator, checkpoint=tmp_path, seed=1, **QUIET)
    assert operator.products == 12
    other, _ = matrix(network_like(seed=1))
    work(other, checkpoint=tmp_path, **QUIET)
    assert other.products == 12


def test_damaged_checkpoints_are_refused(tmp_path):
    operator, _ = matrix(network_like())
    trace(operator, num_probes=6, checkpoint=tmp_path, **QUIET)
    path = sorted(tmp_path.glob("*.npz"))[0]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=f"{path.name} is damaged"):
        trace(operator, num_probes=6, checkpoint=tmp_path, **QUIET)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: top_eigenvalues(a, 0), "`k` must be an integer >= 1"),
        (lambda a: top_eigenvalues(a, 301), "`k` must be at most the number of rows, 300"),
        (lambda a: top_eigenvalues(a, tol=0), "`tol` must be"),
        (lambda a: top_eigenvalues(a, which="top"), "`which` must be one of"),
        (lambda a: trace(a, num_probes=5), "`num_probes` must be an integer >= 6"),
        (lambda a: trace(a, method="xtrace"), "`method` must be one of"),
        (lambda a: trace(a, seed=-1), "`seed` must be an integer >= 0"),
        (lambda a: spectral_density(a, num_steps=0), "`num_steps` must be"),
        (lambda a: spectral_density(a, sigma=0), "`sigma` must be"),
        (lambda a: log_determinant(a, damping=0), "`damping` must be"),
    ],
)
def test_bad_arguments_are_refused_before_any_product(call, message):
    operator, _ = matrix(network_like())
    with pytest.raises(ValueError, match=message):
        call(operator)
    assert operator.products == 0


def test_progress_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    operator, _ = matrix(network_like())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        top_eigenvalues(operator)
        trace(operator, num_probes=6)
        spectral_density(operator, num_steps=3)
    shown = capsys.readouterr().err
    assert all(title in shown for title in ("eigenvalues", "trace", "spectral density"))
