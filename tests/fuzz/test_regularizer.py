"""The regulariser: any arguments, batches, labels, weights and losses."""

import fractions
import functools

import keras
import numpy as np
import pytest
import reference
from fuzz.fuzzing import (
    ANYTHING,
    NUMBERS,
    Refused,
    changed,
    check_message,
    contract,
    fuzz,
    is_finite,
    is_integer,
    near,
)
from hypothesis import strategies as st

from infomcr_tf import BetaSchedule, FisherRegularizedModel, SharpnessAwareModel, fisher_penalty
from infomcr_tf.regularizer import DATA_TERMS, SCHEDULES
from infomcr_tf.regularizer.penalty import DIRECTIONS, ESTIMATORS

K, D = 3, 4
POSITIVE = st.one_of(st.floats(1e-6, 100), NUMBERS, ANYTHING)


@functools.cache
def network(dtype="float64"):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((D,), dtype=dtype),
            keras.layers.Dense(5, activation="tanh", dtype=dtype),
            keras.layers.Dense(K, dtype=dtype),
        ]
    )


ARGUMENTS = {"alpha": 1e-3, "beta": 2.0, "num_sub_batches": 2}
CHANGES = {
    "alpha": POSITIVE,
    "beta": POSITIVE,
    "num_sub_batches": st.one_of(st.integers(0, 9), ANYTHING),
    "data_term": near(DATA_TERMS),
    "estimator": near(ESTIMATORS),
    "direction": near(DIRECTIONS),
    "every": st.one_of(st.integers(0, 9), ANYTHING),
    "fraction": st.one_of(st.floats(0, 1), NUMBERS, ANYTHING),
}


@fuzz(changed(ARGUMENTS, CHANGES, at_most=3), few=20, many=400)
def test_constructor(case):
    """What is accepted is in its range, and the configuration makes the same wrapper again."""
    try:
        with contract():
            model = FisherRegularizedModel(network(), **case)
    except Refused:
        return
    assert is_finite(case["alpha"])
    assert case["alpha"] > 0
    assert is_finite(case["beta"])
    assert case["beta"] >= 0
    for name in ("num_sub_batches", "every"):
        assert is_integer(case.get(name, 1), 1)
    assert 0 < case.get("fraction", 1) <= 1
    for name, choices in (
        ("data_term", DATA_TERMS),
        ("estimator", ESTIMATORS),
        ("direction", DIRECTIONS),
    ):
        assert case.get(name, choices[0]) in choices
    config = model.get_config()
    assert FisherRegularizedModel.from_config(config).get_config() == config


@fuzz(
    changed(
        {"rho": 0.05, "beta": 1.0},
        {"rho": POSITIVE, "beta": POSITIVE, "num_sub_batches": CHANGES["num_sub_batches"]},
    ),
    few=7,
    many=100,
)
def test_sharpness_constructor(case):
    try:
        with contract():
            model = SharpnessAwareModel(network(), **case)
    except Refused:
        return
    assert is_finite(case["rho"])
    assert case["rho"] > 0
    assert SharpnessAwareModel.from_config(model.get_config()).get_config() == model.get_config()


@fuzz(
    st.tuples(near(SCHEDULES), st.one_of(st.none(), st.floats(0, 100), NUMBERS, ANYTHING)),
    few=12,
    many=200,
)
def test_schedule(case):
    schedule, beta = case
    try:
        with contract():
            made = BetaSchedule(schedule, beta=beta)
    except Refused:
        return
    assert schedule in SCHEDULES
    assert beta is None or (is_finite(beta) and beta >= 0)
    assert made.schedule == schedule


@pytest.mark.parametrize("value", [2**63, 10**400, 1e140, fractions.Fraction(1, 3)])
def test_numbers_beyond_floats(value, tmp_path):
    try:
        with contract():
            model = FisherRegularizedModel(network(), beta=value)
    except Refused:
        return
    model.save(tmp_path / "model.keras")


# --- The penalty ----------------------------------------------------------------------------------

# In float64: Keras would round predictions to float32 otherwise.
LOSSES = {
    "sparse": keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64"),
    "one-hot": keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.1, dtype="float64"
    ),
    "squares": keras.losses.MeanSquaredError(dtype="float64"),
}


@st.composite
def batches(draw):
    n = draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    scale = draw(st.sampled_from([0.0, 1e-3, 1.0, 1.0, 10.0, 1e4]))
    form = draw(st.sampled_from(sorted(LOSSES)))
    labels = rng.integers(K, size=n)
    y = labels if form == "sparse" else np.eye(K)[labels]
    weights = draw(
        st.sampled_from(
            [None, None, np.ones(n), rng.uniform(size=n), np.zeros(n), 1e6 * np.ones(n)]
        )
    )
    return {
        "x": scale * rng.normal(size=(n, D)),
        "y": y,
        "loss": LOSSES[form],
        "sample_weight": weights,
        "num_sub_batches": draw(st.integers(1, 4)),
        "alpha": draw(st.floats(1e-4, 0.5)),
        "estimator": "finite_difference",
        "direction": draw(st.sampled_from(DIRECTIONS)),
    }


@fuzz(batches(), few=8, many=120)
def test_penalty(case):
    """R_alpha and its gradient are those of Algorithm 1 written with assigned weights."""
    model = network()
    before = model.get_weights()
    try:
        with contract():
            penalty, gradients = fisher_penalty(model, **case)
    except Refused:
        assert len(case["x"]) < case["num_sub_batches"]
        return
    for own, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, old)
    sign = -1.0 if case["direction"] == "descent" else 1.0
    weights = case["sample_weight"]
    value, expected, _ = reference.penalty(
        model,
        case["loss"],
        case["x"],
        case["y"],
        case["alpha"],
        case["num_sub_batches"],
        weights,
        sign,
    )
    # Both subtract nearly equal float64 losses and gradients, whose terms are at most of the size
    # of the loss and of |x| times the sample weights.
    size = (1 + np.abs(case["x"]).max()) ** 2 * (1 if weights is None else max(weights.max(), 1))
    np.testing.assert_allclose(float(penalty), value, rtol=1e-9, atol=1e-12 * size)
    for own, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-9, atol=1e-12 * size)


ODD = {
    "x": st.sampled_from(
        [
            np.zeros((4, D + 1)),
            np.zeros((4, D, 2)),
            np.zeros((0, D)),
            None,
            "x",
            np.full((4, D), "x"),
            [[1.0], [1.0, 2.0]],
            np.zeros(()),
        ]
    ),
    "y": st.sampled_from([np.zeros(5, int), np.zeros((4, 2)), None, np.zeros((0,), int), "y"]),
    "loss": st.one_of(st.sampled_from(["mse", "mean_squared_erro", None, 3, len]), ANYTHING),
    "sample_weight": st.sampled_from([np.ones(5), np.ones((4, 2)), "x"]),
    "alpha": POSITIVE,
    "num_sub_batches": st.one_of(st.integers(-1, 6), ANYTHING),
    "estimator": near(ESTIMATORS),
    "direction": near(DIRECTIONS),
}
GOOD = {"x": np.ones((4, D)), "y": np.arange(4) % K, "loss": LOSSES["sparse"]}


@fuzz(
    changed(
        GOOD,
        {name: ODD[name] for name in ("alpha", "num_sub_batches", "estimator", "direction")},
        at_most=3,
    ),
    few=7,
    many=150,
)
def test_penalty_arguments(case):
    try:
        with contract():
            penalty, gradients = fisher_penalty(network(), **case)
    except Refused:
        return
    assert is_integer(case.get("num_sub_batches", 8), 1)
    assert case.get("num_sub_batches", 8) <= 4
    assert is_finite(case.get("alpha", 1e-4))
    assert len(gradients) == 4
    assert penalty.shape == ()


# --- `fit` ----------------------------------------------------------------------------------------


@functools.cache
def compiled():
    """A wrapped and a plain model with the same weights, traced once."""
    models = []
    for wrap in (lambda m: FisherRegularizedModel(m, alpha=1e-3, num_sub_batches=2), lambda m: m):
        keras.utils.set_random_seed(1)
        model = wrap(
            keras.Sequential(
                [keras.Input((D,)), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(K)]
            )
        )
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        models.append(model)
    return models[0], models[1], models[1].get_weights()


FIT_X = {
    "good": lambda n: np.random.default_rng(n).normal(size=(n, D)).astype("f"),
    "nan": lambda n: np.full((n, D), np.nan, "f"),
    "inf": lambda n: np.full((n, D), np.inf, "f"),
    "integers": lambda n: np.ones((n, D), int),
    "wrong width": lambda n: np.ones((n, D + 1), "f"),
    "texts": lambda n: np.full((n, D), "x"),
    "objects": lambda n: np.full((n, D), None),
}
FIT_Y = {
    "good": lambda n: np.arange(n) % K,
    "column": lambda n: (np.arange(n) % K)[:, None],
    "floats": lambda n: (np.arange(n) % K).astype("f"),
    "too many": lambda n: np.arange(n + 1) % K,
    "one-hot": lambda n: np.eye(K)[np.arange(n) % K],
    "nothing": lambda _: None,
}
FIT_WEIGHT = {
    "nothing": lambda _: None,
    "good": lambda n: np.linspace(0, 1, n),
    "zero": lambda n: np.zeros(n),
    "too many": lambda n: np.ones(n + 1),
}


@fuzz(
    st.tuples(
        st.integers(0, 9),
        st.sampled_from([*FIT_X, *["good"] * 6]),
        st.sampled_from([*FIT_Y, *["good"] * 4]),
        st.sampled_from([*FIT_WEIGHT, *["nothing"] * 2]),
        st.sampled_from([1, 2, 3, 4, 4, 4, 8, 100]),
        st.sampled_from([0.0, 2.0]),
    ),
    few=8,
    many=80,
)
def test_fit(case):
    """Trains to finite weights; else a clear error, or the one that plain Keras raises."""
    n, x, y, weight, batch_size, beta = case
    data = (FIT_X[x](n), FIT_Y[y](n))
    arguments = {"sample_weight": FIT_WEIGHT[weight](n), "batch_size": batch_size, "verbose": 0}
    wrapped, plain, start = compiled()
    wrapped.model.set_weights(start)
    plain.set_weights(start)
    wrapped.beta.assign(beta)
    try:
        plain.fit(*data, shuffle=False, **arguments)
        error = None
    except Exception as raised:
        error = type(raised)
    try:
        wrapped.fit(*data, shuffle=False, **arguments)
    except Exception as raised:
        if error is None:  # plain Keras would train: the penalty alone is in the way
            assert beta > 0
            check_message(raised)
        else:
            assert isinstance(raised, (error, ValueError, TypeError))
        return
    assert error is None
    own = wrapped.model.get_weights()
    if beta == 0:
        for one, other in zip(own, plain.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    else:
        assert all(np.isfinite(w).all() for w in own)
