"""Robustness: the squared spectral norm of the input Jacobian of the softmax output."""

import keras
import numpy as np
import pytest
import reference
from gradients.small_networks import conv_net, equalising_condition, images, saturated
from scipy import special

from infomcr_tf.characterization.robustness import InputJacobian
from infomcr_tf.gradients.head import Head


def by_svd(model, x, y, **settings):
    jacobians = reference.input_jacobians(
        reference.float64_copy(model), x.astype(np.float64), y, **settings
    )
    return np.array([np.linalg.norm(J, 2) ** 2 for J in jacobians])


@pytest.fixture(scope="module")
def model():
    return conv_net()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"normalize_logits": 0.04}, marks=pytest.mark.slow),
        pytest.param({"equalize_loss": 0.01}, marks=pytest.mark.slow),
    ],
    ids=["plain", "normalised", "equalised"],
)
def test_equals_the_svd_of_float64_jacobians(model, settings):
    x, y = images(6)
    y = model.predict(x, verbose=0).argmax(axis=1) if "equalize_loss" in settings else y
    got = InputJacobian(model, head=Head(**settings)).squared_norms(x, y)
    # A hundred roundings of float32 (6e-8) in a network of 4 layers, doubled by the square. The
    # temperature is the inverse of a margin, whose rounding is that of the logits.
    condition = equalising_condition(model, x) if "equalize_loss" in settings else 0
    relative = np.abs(got / by_svd(model, x, y, **settings) - 1)
    assert (relative < 1.2e-5 * (1 + condition)).all()


def test_linear_softmax_closed_form():
    """J_x f = (diag p - p p^T) K^T; on weights that are exact in float32."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    rng = np.random.default_rng(0)
    kernel = rng.integers(-8, 8, size=(4, 3)) / 8
    model.set_weights([kernel, np.zeros(3)])
    x = rng.integers(-4, 4, size=(5, 4)) / 4
    z = x @ kernel
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    expected = [np.linalg.norm((np.diag(q) - np.outer(q, q)) @ kernel.T, 2) ** 2 for q in p]
    got = InputJacobian(model).squared_norms(x.astype(np.float32), np.zeros(5, int))
    # The unit cotangents are rounded to float32 (6e-8) and multiplied by exact weights.
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_saturated_outputs(model):
    """p_y = 1 - 1e-20 and far beyond: the float64 Jacobian by differentiation is exactly zero.

    With two classes left, p ~ (1, e^-m), J_x f = e^-m (e_1 - e_2)(dz_1 - dz_2)^T in the limit.
    """
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    kernel = np.array([[1.0, -1.0], [0.5, 0.25], [0.0, 2.0]])
    model.set_weights([kernel])
    for margin in (46.0, 300.0):
        x = np.array([[margin / 2, 0.0, 0.0]], np.float32)
        got = InputJacobian(model).squared_norms(x, np.array([0]))
        difference = kernel[:, 0] - kernel[:, 1]
        expected = np.log(2 * np.sum(difference**2)) - 2 * margin
        assert np.log(got[0]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_trained_to_a_loss_of_a_millionth():
    model, x, y = saturated()
    log_p = special.log_softmax(model(x).numpy().astype(np.float64), axis=1)
    assert -log_p[np.arange(40), y].mean() < 1e-6
    got = InputJacobian(model).squared_norms(x[:8], y[:8])
    # Logits of size 100 carry a float32 rounding of 1e-5, which p_k and its square repeat.
    np.testing.assert_allclose(got, by_svd(model, x[:8], y[:8]), rtol=1e-4)


def test_small_memory_gives_the_same(model):
    x, y = images(11)
    whole = InputJacobian(model).squared_norms(x, y)
    parts = InputJacobian(model, max_memory_bytes=3 * 5 * 192 * 20).squared_norms(x, y)
    # Other batch sizes may take other float32 kernels.
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_several_inputs_and_softmax_at_the_end():
    """||[J_a, J_b]||: the two inputs' Jacobians side by side."""
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    hidden = keras.layers.Dense(5, activation="tanh")(keras.layers.Concatenate()([a, b]))
    dense = keras.layers.Dense(3)
    with_softmax = keras.Model({"a": a, "b": b}, keras.layers.Softmax()(dense(hidden)))
    joined = keras.Input((7,))
    single = keras.Sequential(
        [joined, keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(3)]
    )
    single.set_weights(with_softmax.get_weights())
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 7)).astype(np.float32)
    y = np.zeros(4, int)
    # Arrays of different dtypes, as users have them.
    parts = {"a": x[:, :4], "b": x[:, 4:].astype(np.float64)}
    got = InputJacobian(with_softmax).squared_norms(parts, y)
    np.testing.assert_allclose(got, InputJacobian(single).squared_norms(x, y), rtol=1e-5)


def test_wrongly_classified_examples_are_left_out_when_equalised(model):
    x, _ = images(8)
    y = model.predict(x, verbose=0).argmax(axis=1)
    wrong = y.copy()
    wrong[[2, 5]] = (y[[2, 5]] + 1) % 5
    got = InputJacobian(model, head=Head(equalize_loss=0.1)).squared_norms(x, wrong)
    expected = InputJacobian(model, head=Head(equalize_loss=0.1)).squared_norms(x, y)
    np.testing.assert_allclose(got, np.delete(expected, [2, 5]), rtol=1e-6)


def test_integer_inputs_are_refused():
    keras.utils.set_random_seed(0)  # outputs that all lie between 0 and 1 are refused before
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(7, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    with pytest.raises(ValueError, match=r"robustness.*integer"):
        InputJacobian(model).squared_norms(np.zeros((2, 5), np.int32), np.zeros(2, int))
