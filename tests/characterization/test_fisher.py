"""The whole Fisher matrix (Eq. 1), gamma, and Fisher = Hessian where f = y (appendix A)."""

import math

import keras
import numpy as np
import pytest

from infomcr_tf.characterization import GradientEngine, gamma_from_gamma_hat
from infomcr_tf.characterization.fisher import (
    exact_fisher,
    exact_gamma,
    exact_hessian,
    fisher_hessian_difference,
)


class FixedLastLogit(keras.layers.Layer):
    """Appends a zero: K logits from K - 1, without the direction that softmax does not see."""

    def call(self, inputs):
        return keras.ops.pad(inputs, [[0, 0], [0, 1]])


def linear_model(num_classes=3, num_features=2, full=False):
    keras.utils.set_random_seed(3)
    layers = [keras.Input((num_features,), dtype="float64")]
    layers += [keras.layers.Dense(num_classes if full else num_classes - 1, dtype="float64")]
    return keras.Sequential(layers if full else [*layers, FixedLastLogit(dtype="float64")])


def smooth_model():
    keras.utils.set_random_seed(4)
    return keras.Sequential(
        [
            keras.Input((3,), dtype="float64"),
            keras.layers.Dense(4, activation="tanh", dtype="float64"),
            keras.layers.BatchNormalization(dtype="float64"),
            keras.layers.Dense(3, dtype="float64"),
        ]
    )


def data(num_examples, num_features, num_classes, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.dirichlet(np.ones(num_classes), size=num_examples)
    return rng.normal(size=(num_examples, num_features)), y


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("full", [True, False])
def test_fisher_of_linear_softmax_is_the_closed_form(full):
    """grad ln p_i = (e_i - p) outer [x, 1], in the order kernel [d, K], bias [K]."""
    model = linear_model(full=full)
    x, y = data(7, 2, 3)
    p = softmax(model(x).numpy())
    outputs = 3 if full else 2
    expected = 0
    for n in range(7):
        for i in range(3):
            cotangent = (np.eye(3)[i] - p[n])[:outputs]
            g = np.concatenate([np.outer(x[n], cotangent).ravel(), cotangent])
            expected = expected + y[n, i] * np.outer(g, g) / 7
    # Sums of at most 21 products of order one: float64 rounding.
    np.testing.assert_allclose(exact_fisher(model, x, y), expected, atol=1e-14)


def test_hessian_of_linear_softmax_is_the_closed_form():
    """H = (1/N) sum (diag p - p p^T) kron [x, 1][x, 1]^T, whatever the labels."""
    model = linear_model(full=True)
    x, y = data(7, 2, 3)
    p = softmax(model(x).numpy())
    expected = 0
    for n in range(7):
        ones = np.append(x[n], 1.0)
        expected = (
            expected + np.kron(np.outer(ones, ones), np.diag(p[n]) - np.outer(p[n], p[n])) / 7
        )
    np.testing.assert_allclose(exact_hessian(model, x, y), expected, atol=1e-14)


def test_fisher_equals_hessian_where_f_is_y():
    for model in (linear_model(), linear_model(full=True), smooth_model()):
        x, _ = data(9, model.input_shape[-1], 3)
        # Sums of 27 terms through two layers in float64: 1e-13 is some hundred roundings.
        assert fisher_hessian_difference(model, x) < 1e-13


def test_fisher_differs_from_hessian_elsewhere():
    """So that the check above could fail: with other labels they differ by order one."""
    model = smooth_model()
    x, y = data(9, 3, 3)
    difference = exact_fisher(model, x, y) - exact_hessian(model, x, y)
    assert np.linalg.norm(difference) > 0.1 * np.linalg.norm(exact_hessian(model, x, y))


def test_gamma_is_the_log_determinant():
    model = linear_model()
    x, y = data(20, 2, 3)
    expected = np.linalg.slogdet(exact_fisher(model, x, y))[1]
    assert exact_gamma(model, x, y) == pytest.approx(expected, rel=1e-12)
    assert exact_gamma(model, x, y, pseudo=True) == pytest.approx(expected, rel=1e-12)


def test_gamma_of_a_full_softmax_is_minus_infinity():
    """W = 9 weights, of which 3 (one for each of x_1, x_2, 1) shift all logits alike."""
    model = linear_model(full=True)
    x, y = data(20, 2, 3)
    with pytest.warns(UserWarning, match="rank 6 of 9"):
        assert exact_gamma(model, x, y) == -math.inf
    eigenvalues = np.linalg.eigvalsh(exact_fisher(model, x, y))
    assert exact_gamma(model, x, y, pseudo=True) == pytest.approx(np.sum(np.log(eigenvalues[3:])))


def test_gamma_hat_of_w_examples_is_exact_gamma_of_hard_labels():
    """Eq. 4: with N' = W = N examples and one-hot labels the eigenvalues are the same."""
    model = linear_model(num_classes=2, num_features=3)
    x, _ = data(4, 3, 2)
    labels = np.array([0, 1, 1, 0])
    gram = GradientEngine(model).gram(x, labels)
    gamma = gamma_from_gamma_hat(gram.logdet, num_parameters=4, num_samples=4)
    assert gamma == pytest.approx(exact_gamma(model, x, labels), rel=1e-10)


def test_too_large_a_model_and_labels_that_are_no_probabilities():
    model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(60)])
    with pytest.raises(ValueError, match=r"at most 5000.*Received: a model with 6060"):
        exact_fisher(model, np.zeros((2, 100)), np.array([0, 1]))
    with pytest.raises(ValueError, match="sum to 1"):
        exact_fisher(linear_model(), np.zeros((2, 2)), np.full((2, 3), 0.5))
