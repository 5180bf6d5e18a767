"""Theorem 1, the FIA criterion and gamma, for any numbers."""

import math

from fuzz.fuzzing import ANYTHING, NUMBERS, Refused, changed, contract, fuzz, is_integer
from hypothesis import strategies as st

from infomcr_tf import (
    fisher_information_approximation,
    gamma_from_gamma_hat,
    generalization_bound,
)

SIZES = st.one_of(st.integers(1, 10**9), NUMBERS, ANYTHING)
REAL = st.one_of(st.floats(-1e9, 1e9), NUMBERS, ANYTHING)
LOSSES = st.one_of(st.floats(0, 10), NUMBERS, ANYTHING)


@fuzz(
    changed(
        {"gamma_hat": -979.3, "num_parameters": 269_722, "num_samples": 100},
        {"gamma_hat": REAL, "num_parameters": SIZES, "num_samples": SIZES},
        at_most=3,
    ),
    few=40,
    many=400,
)
def test_gamma(case):
    try:
        with contract():
            gamma = gamma_from_gamma_hat(**case)
    except Refused:
        return
    assert is_integer(case["num_parameters"], 1)
    assert is_integer(case["num_samples"], 1)
    W, N = int(case["num_parameters"]), int(case["num_samples"])
    expected = W / N * float(case["gamma_hat"]) - W * math.log(W)
    # Four operations, each off by half a last bit, of terms that may cancel.
    scale = abs(W / N * float(case["gamma_hat"])) + W * math.log(W)
    same = gamma == expected or (math.isnan(gamma) and math.isnan(expected))
    assert same or abs(gamma - expected) <= 1e-15 * scale


BOUND = {
    "gamma": -2.6e6,
    "num_parameters": 269_722,
    "num_examples": 50_000,
    "train_loss": 0.01,
}
BOUND_CHANGES = {
    "gamma": REAL,
    "num_parameters": SIZES,
    "num_examples": SIZES,
    "train_loss": LOSSES,
    "log_volume": REAL,
    "delta": st.one_of(st.floats(0, 1), ANYTHING),
    "posterior_train_loss": LOSSES,
    "train_accuracy": st.one_of(st.floats(0, 1), ANYTHING),
    "max_loss": LOSSES,
}


@fuzz(changed(BOUND, BOUND_CHANGES, at_most=4), few=60, many=600)
def test_bound(case):
    """It is finite or inf, never nan; it rises with the loss and with gamma."""
    try:
        with contract():
            result = generalization_bound(**case)
    except Refused:
        return
    values = (result.A, result.gap, result.bound, result.exact_A, result.exact_gap)
    assert all(value >= 0 for value in values), values  # false for nan
    expected = float(case["train_loss"]) + result.A
    if case.get("posterior_train_loss") is not None:
        expected = float(case["posterior_train_loss"])
    assert result.bound == expected + result.gap
    N, delta = int(case["num_examples"]), float(case.get("delta", 0.05))
    inside = 2 * float(case["train_loss"]) + 2 * result.A + math.log(2 * N / delta)
    assert math.isclose(result.gap, 2 * math.sqrt(inside / (N - 1)), rel_tol=1e-12)
    with contract():
        gamma = float(case["gamma"])
        higher = generalization_bound(**{**case, "gamma": gamma + abs(gamma) / 8})
    assert higher.bound >= result.bound
    assert higher.exact_bound >= result.exact_bound


@fuzz(
    changed(BOUND, {name: BOUND_CHANGES[name] for name in (*BOUND, "log_volume")}, at_most=3),
    few=40,
    many=300,
)
def test_criterion(case):
    try:
        with contract():
            result = fisher_information_approximation(**case)
    except Refused:
        return
    total = result.data_term + result.parameter_term + result.volume_term
    assert result.value == total
    N, L0 = int(case["num_examples"]), float(case["train_loss"])
    assert math.isclose(result.data_term, N * L0 + N * math.log(N), rel_tol=1e-12)
