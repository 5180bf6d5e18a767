"""`characterize`, Gram matrices and Fisher matrices, for any arguments, examples and models."""

import functools

import keras
import numpy as np
import reference
from fuzz.fuzzing import (
    ANYTHING,
    INTEGERS,
    NUMBERS,
    Refused,
    changed,
    contract,
    fuzz,
    is_finite,
    is_integer,
    near,
)
from hypothesis import strategies as st

from infomcr_tf import characterize
from infomcr_tf.characterization import (
    METRICS,
    GradientEngine,
    exact_fisher,
    gram_matrix,
    per_example_jacobian,
)
from infomcr_tf.gradients.passes import METHODS

K, D = 3, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, D)).astype(np.float32)
Y = RNG.integers(K, size=7)


@functools.cache
def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((D,)), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(K)]
    )


@functools.cache
def in_float64():
    return reference.float64_copy(network())


def row_tolerance(x):
    """Relative error of a row of J in float32: its logits are off by some roundings of |x| |w|."""
    return 1e-5 * (1 + np.abs(x).max())


# --- The arguments of `characterize` ----------------------------------------------------------

ARGUMENTS = {"num_trials": 2, "num_samples": 3, "metrics": ["gamma_hat", "trace"]}
CHANGES = {
    "num_trials": st.one_of(st.integers(-2, 3), ANYTHING.filter(lambda v: not is_integer(v, 9))),
    "num_samples": st.one_of(st.integers(-1, 8), INTEGERS, ANYTHING),
    "metrics": st.one_of(near([*METRICS, "all"]), st.lists(near(METRICS), max_size=3)),
    "batch_norm": near(("inference", "batch")),
    "chunk_size": st.one_of(st.integers(-1, 9), INTEGERS, ANYTHING),
    "normalize_logits": st.one_of(st.floats(0.01, 2), NUMBERS, ANYTHING),
    "equalize_loss": st.one_of(st.floats(0.01, 0.7), NUMBERS, ANYTHING),
    "method": near(METHODS),
    "seed": st.one_of(st.integers(0, 2**70), INTEGERS, ANYTHING),
    "protocol": near(("authors",)),
    "num_robustness_examples": st.one_of(st.integers(-1, 8), INTEGERS, ANYTHING),
    "devices": st.one_of(st.lists(near(("CPU:0", "GPU:0", "CPU:99")), max_size=2), ANYTHING),
    "max_memory_bytes": st.one_of(st.integers(1, 10**9), INTEGERS, ANYTHING),
    "checkpoint": ANYTHING.filter(lambda v: not isinstance(v, (str, bytes))),
}


@fuzz(changed(ARGUMENTS, CHANGES), few=12, many=300)
def test_arguments(case):
    """What is accepted gives the trace of a sample's own gradients."""
    try:
        with contract():
            report = characterize(network(), X, Y, progress=False, **case)
    except Refused:
        return
    assert is_integer(case["num_trials"], 1)
    assert report.num_trials == (case["num_trials"] if report.trials else 0)
    if report.trace is None:
        return
    for name in ("normalize_logits", "equalize_loss"):
        assert case.get(name) is None or (is_finite(case[name]) and case[name] > 0)
    settings = {name: case.get(name) for name in ("normalize_logits", "equalize_loss")}
    if case.get("protocol") == "authors":
        settings["normalize_logits"] = 0.04
    settings = {name: None if v is None else float(v) for name, v in settings.items()}
    kept = np.arange(7)
    if settings["equalize_loss"] is not None:
        kept = np.flatnonzero(in_float64()(X).numpy().argmax(axis=1) == Y)
    rows = reference.per_example_gradients(in_float64(), X.astype(float)[kept], Y[kept], **settings)
    squares = np.full(7, np.nan)
    squares[kept] = np.sum(rows**2, axis=1)
    smallest, largest = np.nanmin(squares), np.nanmax(squares)
    for value in report.trials["trace"]:
        assert np.isnan(value) or 0.99 * smallest <= value <= 1.01 * largest
    if case["num_samples"] == 7 and report.num_excluded == 0:
        np.testing.assert_allclose(report.trace, squares.mean(), rtol=1e-3)


# --- The examples -------------------------------------------------------------------------------


def _examples(drawn):
    n, dtype, seed, scale, poison, width = drawn
    rng = np.random.default_rng(seed)
    x = (scale * rng.normal(size=(n, width))).astype(dtype)
    if poison is not None and x.size and x.dtype.kind == "f":
        x.flat[rng.integers(x.size)] = poison
    return x


EXAMPLES = st.tuples(
    st.integers(0, 6),
    st.sampled_from(["float32", "float32", "float64", "float16", "int32", "uint8", "bool"]),
    st.integers(0, 99),
    st.sampled_from([1.0, 1.0, 10.0, 1e-3, 0.0]),
    st.sampled_from([None, None, None, np.nan, np.inf, 1e300, 3e38, 5e-324]),
    st.sampled_from([D, D, D, D, D, 1, D + 1]),
).map(_examples)
ODD_EXAMPLES = st.one_of(
    ANYTHING,
    st.sampled_from(
        [
            np.zeros((2, D), "complex64"),
            np.zeros((2, D), "S1"),
            np.zeros((2, D), object),
            [[1], [1, 2]],
            np.zeros((2, D, 1), "f"),
            np.zeros(D, "f"),
            {"a": np.zeros((2, D), "f")},
            [np.zeros((2, D), "f")] * 2,
            np.zeros((2, D), "M8[s]"),
            [[1.0] * D] * 2,
            [],
            {},
        ]
    ),
)


def _labels(drawn):
    n, form, seed = drawn
    rng = np.random.default_rng(seed)
    labels = rng.integers(K, size=n)
    return {
        "sparse": labels,
        "column": labels[:, None],
        "one-hot": np.eye(K)[labels],
        "soft": 0.9 * np.eye(K)[labels] + 0.1 / K,
        "float": labels.astype("float32"),
        "bytes": labels.astype("uint8"),
        "list": labels.tolist(),
        "too large": labels + 1,
        "negative": labels - 1,
        "fractions": labels + 0.5,
        "nan": np.where(labels == 0, np.nan, labels),
        "huge": labels + 1e30,
        "four columns": np.eye(K + 1)[labels],
        "texts": labels.astype(str),
        "booleans": labels > 0,
        "complex": labels + 0j,
        "nan one-hot": np.full((n, K), np.nan),
        "cube": np.zeros((n, K, 1)),
    }[form]


FORMS = [
    "sparse",
    "column",
    "one-hot",
    "soft",
    "float",
    "bytes",
    "list",
    "too large",
    "negative",
    "fractions",
    "nan",
    "huge",
    "four columns",
    "texts",
    "booleans",
    "complex",
    "nan one-hot",
    "cube",
]
LABELS = st.tuples(st.integers(0, 6), st.sampled_from(FORMS + FORMS[:7] * 2), st.integers(0, 99))
CASES = st.one_of(
    EXAMPLES.flatmap(
        lambda x: st.tuples(
            st.just(x), st.tuples(st.just(len(x)), st.sampled_from(FORMS[:7]), st.integers(0, 9))
        )
    ),
    st.tuples(EXAMPLES, LABELS),
    st.tuples(ODD_EXAMPLES, LABELS),
).map(lambda case: (case[0], _labels(case[1])))


@functools.cache
def engine(**arguments):
    return GradientEngine(network(), **arguments)


@fuzz(st.tuples(CASES, st.sampled_from([None, 1, 2])), few=20, many=400)
def test_gram_matrix(case):
    """Accepted: labels are classes of the model, and xi is that of float64, one by one."""
    (x, y), chunk_size = case
    try:
        with contract():
            gram = engine(chunk_size=chunk_size).gram(x, y)
    except Refused:
        return
    x, y = np.asarray(x, np.float64), np.asarray(y)
    assert x.shape[1:] == (D,)
    assert np.isfinite(x).all()
    labels = y.argmax(axis=1) if y.ndim == 2 and y.shape[1] > 1 else y.ravel().astype(int)
    assert labels.shape == (len(x),)
    assert ((labels >= 0) & (labels < K)).all()
    if np.abs(x).max() < 100:
        J = reference.per_example_gradients(in_float64(), x, labels)
        norms = np.linalg.norm(J, axis=1)
        error = np.abs(gram.xi - J @ J.T) / np.multiply.outer(norms, norms)
        assert error.max() <= 2 * row_tolerance(x)


@fuzz(CASES, few=10, many=150)
def test_fisher_matrix(case):
    """Eq. 1 with y_i = 1 for the label is J^T J / N; with soft labels it is a mixture of these."""
    x, y = case
    try:
        with contract():
            fisher = exact_fisher(network(), x, y)
    except Refused:
        return
    x, y = np.asarray(x, np.float64), np.asarray(y)
    weights = y if y.ndim == 2 and y.shape[1] == K else np.eye(K)[y.ravel().astype(int)]
    if np.abs(x).max() < 100:
        expected = 0
        for k in range(K):
            J = reference.per_example_gradients(in_float64(), x, np.full(len(x), k))
            expected = expected + (J.T * weights[:, k]) @ J / len(x)
        error = np.abs(fisher - expected).max() / np.trace(expected)
        assert error <= 2 * row_tolerance(x)


# --- The models ---------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(K)

    def call(self, inputs):
        return self.dense(inputs)


def _sequential(*layers):
    return keras.Sequential([keras.Input((D,)), *layers])


def _frozen():
    model = _sequential(keras.layers.Dense(K))
    model.trainable = False
    return model


def _two_outputs():
    inputs = keras.Input((D,))
    return keras.Model(inputs, [keras.layers.Dense(K)(inputs), keras.layers.Dense(K)(inputs)])


def _called():
    model = Subclassed()
    model(X)
    return model


def _unreachable():
    """One layer's weights do not reach the output."""
    inputs = keras.Input((D,))
    unused = keras.layers.Dense(2)(inputs)
    out = keras.layers.Dense(K)(inputs) + 0 * keras.ops.sum(unused)
    return keras.Model(inputs, out)


def _with_nan():
    model = _sequential(keras.layers.Dense(K))
    model.layers[-1].kernel.assign(np.full((D, K), np.nan))
    return model


MODELS = {
    "plain": network,
    "subclassed": _called,
    "unbuilt": Subclassed,
    "a class": lambda: keras.Sequential,
    "a function": lambda: len,
    "nothing": lambda: None,
    "frozen": _frozen,
    "softmax": lambda: _sequential(keras.layers.Dense(K, activation="softmax")),
    "softmax layer": lambda: _sequential(keras.layers.Dense(K), keras.layers.Softmax()),
    "sigmoid": lambda: _sequential(keras.layers.Dense(1, activation="sigmoid")),
    "one class": lambda: _sequential(keras.layers.Dense(1)),
    "hidden softmax": lambda: _sequential(
        keras.layers.Dense(K), keras.layers.Lambda(lambda z: keras.ops.softmax(z))
    ),
    "rank 3": lambda: _sequential(keras.layers.Dense(K), keras.layers.Reshape((K, 1))),
    "two outputs": _two_outputs,
    "unreachable weights": _unreachable,
    "nan": _with_nan,
    "dropout": lambda: _sequential(keras.layers.Dropout(0.5), keras.layers.Dense(K)),
    "batch norm": lambda: _sequential(keras.layers.BatchNormalization(), keras.layers.Dense(K)),
    "always random": lambda: _sequential(
        keras.layers.Lambda(lambda z: z + keras.random.normal(keras.ops.shape(z))),
        keras.layers.Dense(K),
    ),
    "couples examples": lambda: _sequential(
        keras.layers.Dense(K), keras.layers.Lambda(lambda z: z - keras.ops.mean(z, axis=0))
    ),
}


@functools.cache
def built(name):
    keras.utils.set_random_seed(0)
    return MODELS[name]()


@fuzz(
    st.tuples(
        st.sampled_from(sorted(MODELS)),
        st.sampled_from([gram_matrix, per_example_jacobian, exact_fisher, characterize]),
    ),
    few=6,
    many=70,
)
def test_models(case):
    """A result is that of one example at a time, whatever the model."""
    name, function = case
    model = built(name)
    arguments = {}
    if function is characterize:
        arguments = {"num_trials": 1, "num_samples": 7, "metrics": "trace", "progress": False}
    try:
        with contract():
            result = function(model, X, Y, **arguments)
    except Refused:
        return
    assert name in (
        "plain",
        "subclassed",
        "softmax",
        "softmax layer",
        "hidden softmax",
        "dropout",
        "batch norm",
        "unreachable weights",
    )
    logits = model
    if "softmax" in name:
        logits = _sequential(keras.layers.Dense(K))
        logits.set_weights(model.get_weights())
    J = reference.per_example_gradients(logits, X, Y)
    found = {
        gram_matrix: lambda: (result, J @ J.T),
        per_example_jacobian: lambda: (result, J),
        exact_fisher: lambda: (result, J.T @ J / 7),
        characterize: lambda: (result.trace, np.sum(J**2) / 7),
    }[function]()
    # Both sides in float32.
    np.testing.assert_allclose(*found, atol=2e-5 * np.abs(found[1]).max(), rtol=0)
