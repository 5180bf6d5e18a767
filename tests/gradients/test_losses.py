"""`loss=`: the rows of J are gradients of each example's loss, one example at a time in float64."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from keras import layers
from parameters import all_but

from infomcr_tf.gradients import per_example_jacobian

N = 6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 5)).astype(np.float32)
PIXELS = RNG.normal(size=(N, 6, 5, 2)).astype(np.float32)
TOKENS = np.where(np.arange(6) < RNG.integers(2, 7, size=(N, 1)), RNG.integers(1, 7, (N, 6)), 0)
BINARY = RNG.integers(2, size=N)
REAL = RNG.normal(size=(N, 1)).astype(np.float32)
CLASSES = RNG.integers(3, size=N)
SEGMENTS = RNG.integers(3, size=(N, 6, 5))


def cross_entropy(**arguments):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)


def dense(units, activation=None):
    keras.utils.set_random_seed(0)
    body = [layers.Dense(4, activation="tanh"), layers.Dense(units, activation=activation)]
    return keras.Sequential([keras.Input((5,)), *body])


def segmentation():
    keras.utils.set_random_seed(0)
    body = [layers.Conv2D(4, 3, padding="same", activation="tanh"), layers.Conv2D(3, 1)]
    return keras.Sequential([keras.Input((6, 5, 2)), *body])


def language(activation=None):
    """Padding is masked, and the mask reaches the loss."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((6,), dtype="int32")
    h = layers.LSTM(4, return_sequences=True)(layers.Embedding(7, 3, mask_zero=True)(tokens))
    return keras.Model(tokens, layers.Dense(7, activation=activation)(h))


def two_outputs(as_dict):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    h = layers.Dense(4, activation="tanh")(inputs)
    a, b = layers.Dense(3, name="a")(h), layers.Dense(1, name="b")(h)
    return keras.Model(inputs, {"a": a, "b": b} if as_dict else [a, b])


def mse(y, y_pred):
    return tf.reduce_mean(tf.square(tf.cast(y, y_pred.dtype) - y_pred), axis=-1)


# Name -> (model, x, y, arguments, the loss of one example as plain Keras computes it).
SITUATIONS = {
    "one logit": (
        lambda: dense(1),
        X,
        BINARY,
        {"loss": keras.losses.BinaryCrossentropy(from_logits=True)},
        lambda y, p: keras.losses.BinaryCrossentropy(from_logits=True)(y, p),
    ),
    "several labels at once": (
        lambda: dense(3, "sigmoid"),
        X,
        RNG.integers(2, size=(N, 3)),
        {"loss": "binary_crossentropy"},
        lambda y, p: keras.losses.BinaryCrossentropy()(y, p),
    ),
    "regression by name": (
        lambda: dense(1),
        X,
        REAL,
        {"loss": "mse"},
        lambda y, p: mse(y, p),
    ),
    "regression by an own function of float32": (
        lambda: dense(1),
        X,
        REAL,
        {"loss": lambda y, p: tf.reduce_sum(tf.square(tf.cast(y, tf.float32) - p), axis=1)},
        lambda y, p: mse(y, p),
    ),
    "mean over pixels": (
        segmentation,
        PIXELS,
        SEGMENTS,
        {"loss": cross_entropy()},
        lambda y, p: cross_entropy()(y, p),
    ),
    "sum over pixels": (
        segmentation,
        PIXELS,
        SEGMENTS,
        {"loss": cross_entropy(reduction="sum")},
        lambda y, p: cross_entropy(reduction="sum")(y, p),
    ),
    "an own sum over pixels of integer targets": (
        segmentation,
        PIXELS,
        SEGMENTS,
        {
            "loss": lambda y, z: tf.reduce_sum(
                tf.nn.sparse_softmax_cross_entropy_with_logits(y, z), axis=(1, 2)
            )
        },
        lambda y, p: cross_entropy(reduction="sum")(y, p),
    ),
    "a class that does not count": (
        segmentation,
        PIXELS,
        SEGMENTS,
        {"loss": cross_entropy(ignore_class=1)},
        lambda y, p: cross_entropy(ignore_class=1)(y, p),
    ),
    "masked tokens": (
        language,
        TOKENS,
        TOKENS,
        {"loss": cross_entropy()},
        lambda y, p: cross_entropy()(y, p),
    ),
    "masked tokens behind softmax": (
        lambda: language("softmax"),
        TOKENS,
        TOKENS,
        {"loss": "sparse_categorical_crossentropy"},
        lambda y, p: keras.losses.SparseCategoricalCrossentropy()(y, p),
    ),
    "a dict of outputs": (
        lambda: two_outputs(True),
        X,
        {"a": CLASSES, "b": REAL},
        {"loss": {"a": cross_entropy(), "b": "mse"}, "loss_weights": {"b": 0.5}},
        lambda y, p: cross_entropy()(y["a"], p["a"]) + 0.5 * mse(y["b"], p["b"]),
    ),
    "a list of outputs": (
        lambda: two_outputs(False),
        X,
        [CLASSES, REAL],
        {"loss": [cross_entropy(), "mse"], "loss_weights": [2.0, 0.5]},
        lambda y, p: 2 * cross_entropy()(y[0], p[0]) + 0.5 * mse(y[1], p[1]),
    ),
    "one of two outputs": (
        lambda: two_outputs(False),
        X,
        [CLASSES, REAL],
        {"loss": {"a": cross_entropy()}},
        lambda y, p: cross_entropy()(y[0], p[0]),
    ),
    "an own function of two outputs": (
        lambda: two_outputs(True),
        X,
        {"a": CLASSES, "b": REAL},
        {"loss": lambda y, p: cross_entropy().call(y["a"], p["a"]) + mse(y["b"], p["b"])},
        lambda y, p: cross_entropy()(y["a"], p["a"]) + mse(y["b"], p["b"]),
    ),
}


@pytest.mark.parametrize(
    "name", all_but(SITUATIONS, ["masked tokens behind softmax", "a list of outputs"])
)
def test_rows_are_gradients_of_each_examples_loss(name):
    make, x, y, arguments, loss = SITUATIONS[name]
    model = make()
    actual = per_example_jacobian(model, x, y, **arguments)
    copy = reference.float64_copy(model)
    in_float64 = x.astype(np.float64) if x.dtype.kind == "f" else x
    expected = reference.per_example_loss_gradients(copy, in_float64, y, loss)
    # Some dozens of float32 roundings of the largest entry.
    assert np.abs(actual - expected).max() < 3e-6 * np.abs(expected).max()


def test_the_compiled_loss_and_its_weights():
    model = two_outputs(True)
    _, x, y, arguments, _ = SITUATIONS["a dict of outputs"]
    model.compile("sgd", **arguments)
    compiled = per_example_jacobian(model, x, y, loss="compiled")
    np.testing.assert_array_equal(compiled, per_example_jacobian(model, x, y, **arguments))


def test_explicit_cross_entropy_is_auto():
    model = dense(3)
    explicit = per_example_jacobian(model, X, CLASSES, loss=cross_entropy())
    np.testing.assert_array_equal(explicit, per_example_jacobian(model, X, CLASSES))


def test_saturated_sigmoid_keeps_its_gradient():
    """p = sigmoid(z) rounds to 1 in float32 from z = 17 on, and Keras would clip it."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, "sigmoid", use_bias=False)])
    model.set_weights([np.ones((1, 1))])
    x = np.array([[20.0], [-25.0]], np.float32)
    J = per_example_jacobian(model, x, np.array([1, 0]), loss="binary_crossentropy")
    expected = [[-np.exp(-20) * 20], [np.exp(-25) * -25]]
    # 1 - p in float64 is exact to 1.1e-16 of 1, which is 5e-8 of e^-20 ... and J is float32.
    np.testing.assert_allclose(J, expected, rtol=1e-6)


def compiled(model, loss):
    model.compile("sgd", loss)
    return model


REFUSED = {
    "sigmoid classifier": (lambda: dense(3, "sigmoid"), np.eye(3)[CLASSES], {}, "sigmoid"),
    "several labels": (lambda: dense(3), np.ones((N, 3)), {}, "one-hot or probabilities"),
    "regression": (lambda: dense(3), RNG.normal(size=(N, 3)), {}, "one-hot or probabilities"),
    "one output": (lambda: dense(1), BINARY, {}, "K >= 2"),
    "two outputs": (lambda: two_outputs(False), [CLASSES, REAL], {}, "one output"),
    "compiled with another loss": (
        lambda: compiled(dense(3), "mse"),
        CLASSES,
        {},
        "compiled with mse",
    ),
    "compiled for probabilities that are logits": (
        lambda: compiled(dense(3), "sparse_categorical_crossentropy"),
        CLASSES,
        {},
        "softmax",
    ),
    "float16 softmax": (
        lambda: keras.Sequential(
            [
                dense(3),
                layers.Lambda(lambda z: tf.cast(tf.nn.softmax(tf.cast(z, tf.float16)), tf.float32)),
            ]
        ),
        CLASSES,
        {},
        "probabilities",
    ),
    "one number": (lambda: dense(1), REAL, {"loss": lambda y, p: tf.reduce_mean(y - p)}, "each"),
    "a number a pixel": (
        lambda: dense(3),
        np.eye(3)[CLASSES],
        {"loss": lambda y, p: tf.square(y - p)},
        "one number for each example",
    ),
    "broadcast to [n, n]": (
        lambda: dense(1),
        REAL[:, 0],
        {"loss": lambda y, p: tf.square(y - p)},
        "one number for each example",
    ),
    "examples meet": (
        lambda: dense(1),
        REAL,
        {"loss": lambda y, p: mse(y, p) / tf.reduce_mean(p)},
        "each example alone",
    ),
    "Dice": (
        lambda: dense(3, "sigmoid"),
        np.eye(3)[CLASSES],
        {"loss": keras.losses.Dice()},
        "one number for each example",
    ),
    "Circle": (lambda: dense(3), CLASSES, {"loss": keras.losses.Circle()}, "each example alone"),
    "not differentiable": (
        lambda: dense(1),
        REAL,
        {"loss": lambda y, p: y[:, 0] + tf.round(p)[:, 0]},
        "differentiable",
    ),
    "unknown name": (lambda: dense(1), REAL, {"loss": "msee"}, "a name that Keras knows"),
    "a wrong number of losses": (
        lambda: two_outputs(False),
        [CLASSES, REAL],
        {"loss": ["mse"]},
        "one entry for each",
    ),
    "unknown output": (
        lambda: two_outputs(True),
        {"a": CLASSES, "b": REAL},
        {"loss": {"c": "mse"}},
        "named as the model's outputs",
    ),
    "equal loss": (lambda: dense(1), REAL, {"loss": "mse", "equalize_loss": 0.1}, "equalize_loss"),
    "texts": (lambda: dense(3), np.array(["a", "b", "c"] * 2), {}, "return_inverse"),
    "not compiled": (lambda: dense(3), CLASSES, {"loss": "compiled"}, "compiled with a loss"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused(name):
    make, y, arguments, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        per_example_jacobian(make(), X, y, **arguments)
    assert "\n" not in str(error.value)
