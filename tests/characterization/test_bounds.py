"""Theorem 1, the FIA criterion and gamma: known answers, the printed formulas, and limits."""

import math
import warnings

import numpy as np
import pytest
from scipy import integrate, special

from infomcr_tf.characterization.bounds import (
    fisher_information_approximation,
    gamma_from_gamma_hat,
    generalization_bound,
)

RESNET20 = {"num_parameters": 269_722, "num_examples": 50_000, "train_loss": 0.01}


def bound(gamma, **arguments):
    """The bound of a loss that is known to lie in [0, 1], so that nothing is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return generalization_bound(gamma, max_loss=1.0, **arguments)


def test_known_answer_of_resnet20():
    gamma = gamma_from_gamma_hat(-979.3, num_parameters=269_722, num_samples=100)
    result = bound(gamma, **RESNET20, delta=0.05)
    # Six digits are given.
    assert pytest.approx(1.63475e-6, rel=5e-6) == result.A
    assert result.gap == pytest.approx(0.0340928, rel=5e-6)
    assert result.bound == pytest.approx(0.01 + result.A + result.gap, rel=1e-12)


@pytest.mark.parametrize(("W", "N", "gamma", "volume"), [(3, 10, -2.0, 0.1), (40, 500, 7.0, 2.0)])
def test_equals_the_formula_as_printed_where_it_can_be_evaluated(W, N, gamma, volume):
    L0, delta = 0.02, 0.1
    result = bound(
        gamma,
        num_parameters=W,
        num_examples=N,
        train_loss=L0,
        log_volume=math.log(volume),
        delta=delta,
    )
    A = W * volume ** (2 / W) * math.pi ** (1 / W) * math.exp(gamma / W) / (4 * math.pi * math.e)
    gap = 2 * math.sqrt((2 * L0 + 2 * A + math.log(2 * N / delta)) / (N - 1))
    assert pytest.approx(A, rel=1e-13) == result.A
    assert result.gap == pytest.approx(gap, rel=1e-13)


@pytest.mark.parametrize("W", [1, 2, 5])
def test_exact_height_gives_the_ellipsoid_its_volume(W):
    """Integrates the set {w : w^T I w / 2 <= height} numerically: its volume is V."""
    rng = np.random.default_rng(W)
    root = rng.normal(size=(W, W)) + 2 * np.eye(W)
    fisher = root @ root.T
    log_volume = -1.3
    result = bound(
        np.linalg.slogdet(fisher)[1],
        num_parameters=W,
        num_examples=10,
        train_loss=0.0,
        log_volume=log_volume,
    )
    # In w = I^(-1/2) u the set is a ball of radius sqrt(2 height); its volume by shells.
    surface = 2 * math.pi ** (W / 2) / special.gamma(W / 2)
    radius = math.sqrt(2 * result.exact_A)
    ball = integrate.quad(lambda r: surface * r ** (W - 1), 0, radius)[0]
    volume = ball / math.sqrt(np.linalg.det(fisher))
    assert volume == pytest.approx(math.exp(log_volume), rel=1e-10)


def test_stirling_approaches_the_exact_height():
    """The theorem drops W^(1/W) of Stirling's formula: the ratio is W^(1/W) (1 + O(1/W^2))."""
    for W in (100, 10_000, 1_000_000):
        result = bound(-W * 10.0, num_parameters=W, num_examples=100, train_loss=0.0)
        # ln Gamma(n+1) exceeds Stirling by 1/(12 n); times 2/W with n = W/2: 1/(3 W^2).
        expected = W ** (1 / W) * math.exp(1 / (3 * W**2))
        assert result.exact_A / result.A == pytest.approx(expected, rel=1e-8)


def test_lower_gamma_gives_a_lower_bound_and_singular_gives_none_of_the_curvature():
    gammas = [-np.inf, -4e6, -3.8e6, -3.4e6]
    gaps = [bound(gamma, **RESNET20).bound for gamma in gammas]
    assert gaps == sorted(gaps)
    assert gaps[1] < gaps[3]
    assert bound(-np.inf, **RESNET20).A == 0
    assert bound(1e12, **RESNET20).bound == np.inf


def test_posterior_train_loss_replaces_its_upper_bound():
    result = bound(-4e6, **RESNET20, posterior_train_loss=0.5)
    assert result.bound == pytest.approx(0.5 + result.gap, rel=1e-15)


def test_warnings_where_the_assumptions_fail():
    arguments = {**RESNET20, "gamma": -4e6}
    with pytest.warns(UserWarning, match=r"losses in \[0, 1\] and the cross-entropy has no upper"):
        generalization_bound(**arguments)
    with pytest.warns(UserWarning, match=r"losses in \[0, 1\]\. Received: max_loss=9"):
        generalization_bound(**arguments, max_loss=9)
    with pytest.warns(UserWarning, match="close-to-zero"):
        generalization_bound(**{**arguments, "train_loss": 0.3}, max_loss=1)
    with pytest.warns(UserWarning, match=r"train_accuracy=0\.99"):
        generalization_bound(**arguments, max_loss=1, train_accuracy=0.99)


def test_warnings_point_at_the_callers_line():
    with pytest.warns(UserWarning) as records:
        generalization_bound(-4e6, **RESNET20)
    assert records[0].filename == __file__


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("num_parameters", 0),
        ("num_examples", 1),
        ("train_loss", -0.1),
        ("train_loss", math.nan),
        ("delta", 0.0),
        ("delta", 1.1),
        ("gamma", math.nan),
        ("log_volume", math.nan),
        ("posterior_train_loss", -1.0),
    ],
)
def test_bad_arguments_are_named(argument, value):
    arguments = {"gamma": -1.0, **RESNET20, "max_loss": 1.0, argument: value}
    with pytest.raises(ValueError, match=f"`{argument}`.*Received"):
        generalization_bound(**arguments)


def test_gamma_from_gamma_hat():
    # W/N' gamma_hat + W ln(1/W) with W = 4, N' = 2: 2 * -3 - 4 ln 4.
    gamma = gamma_from_gamma_hat(-3.0, num_parameters=4, num_samples=2)
    assert gamma == pytest.approx(-6 - 4 * math.log(4), rel=1e-15)
    assert gamma_from_gamma_hat(-np.inf, num_parameters=4, num_samples=2) == -np.inf
    with pytest.raises(ValueError, match="num_samples"):
        gamma_from_gamma_hat(-3.0, num_parameters=4, num_samples=0)


def test_gamma_is_exact_where_the_sample_is_the_whole_spectrum():
    """With N' = W examples the eigenvalues of xi / W are those of the Fisher matrix of S'."""
    W = 6
    J = np.random.default_rng(0).normal(size=(W, W))
    gamma_hat = np.linalg.slogdet(J @ J.T)[1]
    exact = np.linalg.slogdet(J.T @ J / W)[1]
    assert gamma_from_gamma_hat(gamma_hat, num_parameters=W, num_samples=W) == pytest.approx(exact)


def test_fia_terms():
    result = fisher_information_approximation(
        -50.0, num_parameters=7, num_examples=20, train_loss=0.3, log_volume=-2.0
    )
    # -sum ln p(x, c) with p(x, c) = p(c|x) / N, example by example.
    losses = np.full(20, 0.3)
    assert result.data_term == pytest.approx(-np.sum(np.log(np.exp(-losses) / 20)), rel=1e-13)
    assert result.parameter_term == pytest.approx(3.5 * math.log(20 / (2 * math.pi)), rel=1e-13)
    assert result.volume_term == pytest.approx(-27.0)
    assert result.value == result.data_term + result.parameter_term + result.volume_term


def test_fia_volume_term_is_the_integral():
    """For a constant Fisher matrix on a ball in the plane: ln of the integral of sqrt|J|."""
    fisher = np.array([[2.0, 0.3], [0.3, 0.5]])
    radius = 0.7
    integral = integrate.dblquad(
        lambda r, _: r * math.sqrt(np.linalg.det(fisher)), 0, 2 * math.pi, 0, radius
    )[0]
    result = fisher_information_approximation(
        np.linalg.slogdet(fisher)[1],
        num_parameters=2,
        num_examples=5,
        train_loss=0.0,
        log_volume=math.log(math.pi * radius**2),
    )
    assert result.volume_term == pytest.approx(math.log(integral), rel=1e-9)
