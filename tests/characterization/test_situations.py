"""Ordinary models of Keras' users: precisions, tokens, wrappers, softmax in every form."""

import warnings

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from keras import layers
from parameters import some

from infomcr_tf import CharacterizeCallback, FisherRegularizedModel, characterize
from infomcr_tf.gradients import per_example_jacobian

N = 12
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 6, 6, 2)).astype(np.float32)
Y = RNG.integers(3, size=N)
QUICK = {"num_trials": 2, "num_samples": 4, "progress": False}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(policy="float32", *end):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(1)
        body = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten()]
        return keras.Sequential([keras.Input((6, 6, 2)), *body, layers.Dense(3), *end])
    finally:
        keras.config.set_dtype_policy(before)


@pytest.fixture(scope="module")
def plain():
    return network()


@pytest.fixture(scope="module")
def rows(plain):
    copy = reference.float64_copy(plain)
    return reference.per_example_gradients(copy, X.astype(np.float64), Y)


@pytest.mark.parametrize(
    "policy", some(["mixed_float16", "mixed_bfloat16", "float64"], ["mixed_float16", "float64"])
)
def test_precisions_are_those_of_float32_or_better(plain, rows, policy):
    model = network(policy)
    model.set_weights(plain.get_weights())
    J = per_example_jacobian(model, X.astype("float64") if policy == "float64" else X, Y)
    # Some dozens of roundings of the largest entry; in half precision they would be 1e-3 each.
    tolerance = 1e-13 if policy == "float64" else 3e-6
    assert np.abs(J - rows).max() < tolerance * np.abs(rows).max()
    assert model.layers[0].compute_dtype == policy.removeprefix("mixed_")


def quantized():
    model = keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(), layers.Dense(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.quantize("int8")
    return model


class CastsItself(layers.Layer):
    def call(self, x):
        return tf.cast(tf.cast(x, tf.float16) * 2, tf.float32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network("bfloat16"), "weights in float32 or float64"),
        (quantized, "must not be quantised"),
        (lambda: network("mixed_float16", CastsItself()), "cast to half precision"),
    ],
)
def test_what_has_no_float32_is_refused(make, message):
    with pytest.raises(ValueError, match=message) as error:
        characterize(make(), X, Y, **QUICK)
    assert "\n" not in str(error.value)


def test_the_callback_does_not_end_fit():
    model = network("bfloat16")
    model.compile(keras.optimizers.SGD(0.01), LOSS)
    callback = CharacterizeCallback(X, Y, num_trials=1, num_samples=4)
    with pytest.warns(UserWarning, match="training without measurements.*float32 or float64"):
        model.fit(X, Y, epochs=1, verbose=0, callbacks=[callback])
    model = network()
    model.compile(keras.optimizers.SGD(1e30), LOSS)
    with pytest.warns(UserWarning, match="no measurement of epoch 0.*NaN or infinite"):
        history = model.fit(X, Y, epochs=1, batch_size=4, verbose=0, callbacks=[callback])
    assert len(history.history["loss"]) == 1
    assert not callback.reports


def tokens(*, last=3):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), dtype="int32")
    h = layers.LSTM(4)(layers.Embedding(7, 3, mask_zero=True)(inputs))
    return keras.Model(inputs, layers.Dense(last)(h))


def test_tokens_have_no_robustness():
    x = RNG.integers(7, size=(N, 5))
    with pytest.warns(UserWarning, match="left out: robustness needs") as record:
        report = characterize(tokens(), x, Y, **QUICK)
    assert len([w for w in record if w.category is UserWarning]) == 1
    assert report.robustness is None
    assert report.gamma_hat is not None
    with pytest.raises(ValueError, match=r"robustness needs.*metrics=\['trace'\]"):
        characterize(tokens(), x, Y, metrics=["trace", "robustness"], **QUICK)


def test_robustness_of_outputs():
    """Without classes it is the spectral norm of the outputs' own Jacobian."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    h = layers.Flatten()(layers.Conv2D(2, 3, activation="tanh")(inputs))
    outputs = [layers.Dense(3, activation="sigmoid")(h), layers.Dense(2)(h)]
    model = keras.Model(inputs, outputs)
    targets = [np.eye(3)[Y], np.zeros((N, 2))]
    report = characterize(model, X, targets, loss=["binary_crossentropy", "mse"], **QUICK)
    copy = reference.float64_copy(model)
    norms = []
    for n in range(N):
        example = tf.constant(X[n : n + 1], tf.float64)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(example)
            joined = tf.concat(copy(example), axis=1)[0]
        J = tape.jacobian(joined, example, experimental_use_pfor=False).numpy()
        norms.append(np.linalg.norm(J.reshape(5, -1), 2) ** 2)
    assert report.robustness == pytest.approx(np.mean(norms), rel=1e-5)
    assert report.train_accuracy is None


class EndsInSoftmax(keras.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return keras.ops.softmax(self.inner(x))


def _ops_softmax(inner):
    inputs = keras.Input((6, 6, 2))
    return keras.Model(inputs, keras.ops.softmax(inner(inputs)))


def _subclassed(inner):
    model = EndsInSoftmax(inner)
    model(X[:1])
    return model


SOFTMAX = {
    "Activation": lambda inner: keras.Sequential([inner, layers.Activation("softmax")]),
    "Softmax": lambda inner: keras.Sequential([inner, layers.Softmax()]),
    "Lambda": lambda inner: keras.Sequential([inner, layers.Lambda(keras.activations.softmax)]),
    "ops.softmax": _ops_softmax,
    "subclassed": _subclassed,
    "mixed_float16": lambda inner: _mixed(inner),
}


def _mixed(inner):
    model = network("mixed_float16", layers.Activation("softmax", dtype="mixed_float16"))
    model.set_weights(inner.get_weights())
    return model


@pytest.mark.parametrize("name", some(SOFTMAX, ["Activation", "subclassed"]))
def test_softmax_is_taken_off(plain, rows, name):
    model = SOFTMAX[name](plain)
    J = per_example_jacobian(model, X, Y)
    assert np.abs(J - rows).max() < 3e-6 * np.abs(rows).max()


def test_a_wrapper_is_asked_for_its_loss(plain):
    model = FisherRegularizedModel(network())
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="compiled with mse"):
        characterize(model, X, Y, **QUICK)
    report = characterize(model, X, np.eye(3)[Y], loss="compiled", metrics="trace", **QUICK)
    same = characterize(model.model, X, np.eye(3)[Y], loss="mse", metrics="trace", **QUICK)
    assert report.trace == same.trace
    assert "mean_squared_error" in report.settings["loss"]


def test_label_smoothing_is_left_out_and_said(plain):
    smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    model = keras.models.clone_model(plain)
    model.set_weights(plain.get_weights())
    model.compile("sgd", smoothed)
    with pytest.warns(UserWarning, match=r"label_smoothing=0\.1.*loss=\"compiled\""):
        report = characterize(model, X, np.eye(3)[Y], metrics="trace", **QUICK)
    assert report.trace == characterize(plain, X, Y, metrics="trace", **QUICK).trace
    compiled = characterize(model, X, np.eye(3)[Y], loss="compiled", metrics="trace", **QUICK)
    assert compiled.trace != report.trace


@pytest.mark.parametrize("metrics", ["robustness", "trace"])
def test_logits_of_some_examples_may_look_like_probabilities(metrics):
    """Those of two classes lie between 0 and 1 for one example of four, where they are small."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, kernel_initializer="identity")])
    x = np.linspace(0.2, 8, 2 * N, dtype="float32").reshape(N, 2)
    report = characterize(model, x, Y % 2, metrics=metrics, num_trials=1, num_samples=N)
    assert getattr(report, metrics) > 0
    fresh = keras.models.clone_model(model)  # which has not given other outputs yet
    with pytest.raises(ValueError, match="all lie between 0 and 1"):
        characterize(fresh, x / 10, Y % 2, metrics=metrics, num_trials=1, num_samples=N)


def test_lora_and_frozen_layers(plain):
    model = network()
    model.layers[0].trainable = False
    model.layers[-1].enable_lora(2)
    model.layers[-1].lora_kernel_b.assign(RNG.normal(size=(2, 3)))
    J = per_example_jacobian(model, X, Y)
    weights = [v.value for v in model.trainable_variables]
    expected = []
    for n in range(N):
        with tf.GradientTape() as tape:
            loss = LOSS(Y[n : n + 1], model(X[n : n + 1]))
        expected.append(np.concatenate([np.ravel(g) for g in tape.gradient(loss, weights)]))
    # Both sides in float32.
    assert np.abs(J - expected).max() < 3e-6 * np.abs(expected).max()
