"""The closed forms between logits and gradients, where p rounds to 1 and where it does not."""

import math

import numpy as np
import pytest
import reference
import tensorflow as tf

from infomcr_tf.gradients.head import Head


def cotangents(head, logits, labels):
    output = head(tf.constant(logits), tf.constant(labels))
    return np.exp(output.log_norms)[:, None] * output.unit_cotangents.numpy(), output


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(7, 5)) * 3


@pytest.fixture
def labels(logits):
    return np.append(logits.argmax(axis=1)[:5], [0, 1]).astype(np.int64)


def test_gradient_is_p_minus_onehot(logits, labels):
    actual, output = cotangents(Head(), logits, labels)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(actual, p - np.eye(5)[labels], rtol=0, atol=1e-14)
    np.testing.assert_allclose(output.losses, -np.log(p[np.arange(7), labels]), rtol=1e-12)
    np.testing.assert_array_equal(output.correct, logits.argmax(axis=1) == labels)


@pytest.mark.parametrize("margin", [40.0, 500.0, 5000.0])
def test_saturated_gradient_keeps_its_length_and_direction(margin):
    # p = (1, e^-m, 2 e^-m) / (1 + 3 e^-m): 1 - p_y is below every rounding of p_y.
    logits = np.array([[margin, 0.0, math.log(2)]])
    output = Head()(tf.constant(logits), tf.constant([0]))
    np.testing.assert_allclose(
        output.unit_cotangents[0], np.array([-3, 1, 2]) / math.sqrt(14), rtol=1e-12
    )
    np.testing.assert_allclose(output.log_norms[0], 0.5 * math.log(14) - margin, rtol=1e-14)
    np.testing.assert_allclose(output.losses[0], 3 * math.exp(-margin), rtol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"normalize_logits": 0.04},
        {"equalize_loss": 0.3},
        {"normalize_logits": 0.5, "equalize_loss": 0.01},
    ],
)
def test_transformed_gradient_against_finite_differences(logits, labels, settings):
    head = Head(**settings)
    actual, output = cotangents(head, logits, labels)
    s, target = settings.get("normalize_logits"), settings.get("equalize_loss")
    step = 1e-6
    for n in np.flatnonzero(output.kept):

        def normalised(z):
            return z / (np.linalg.norm(z) * s) if s else z

        factor = reference.temperature(normalised(logits[n]), labels[n], target) if target else 1.0

        def loss(z, factor=factor, n=n):
            z = factor * normalised(z)
            return np.log(np.sum(np.exp(z - z[labels[n]])))

        expected = [
            (loss(logits[n] + step * e) - loss(logits[n] - step * e)) / (2 * step)
            for e in np.eye(5)
        ]
        # Central differences: truncation step^2 times third derivatives of up to (1/s)^3 = 2e4.
        np.testing.assert_allclose(actual[n], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("target", [1e-6, 1e-3, 0.1, 0.69])
def test_equalised_loss_is_exact_and_leaves_predictions(logits, labels, target):
    transformed, kept = Head(equalize_loss=target).transform(logits, tf.constant(labels))
    transformed, kept = transformed.numpy(), kept.numpy()
    np.testing.assert_array_equal(kept, logits.argmax(axis=1) == labels)
    others = np.where(np.eye(5, dtype=bool)[labels], -np.inf, transformed)
    own = transformed[np.arange(7), labels]
    losses = np.log1p(np.exp(others - own[:, None]).sum(axis=1))
    # A relative rounding of the temperature moves the loss by the size of the logits times it.
    np.testing.assert_allclose(losses[kept], target, rtol=1e-13 * (1 + np.abs(transformed).max()))
    np.testing.assert_array_equal(transformed.argmax(axis=1), logits.argmax(axis=1))


def test_ties_have_no_temperature():
    _, kept = Head(equalize_loss=0.1).transform(np.array([[1.0, 1.0, 0.0]]), tf.constant([0]))
    assert not kept[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalize_logits": 0.0}, "`normalize_logits` must be a finite number above 0"),
        ({"normalize_logits": math.nan}, "`normalize_logits` must be a finite number above 0"),
        ({"equalize_loss": 0.0}, "`equalize_loss` must be a finite number above 0 and below 0.693"),
        ({"equalize_loss": 0.7}, "`equalize_loss` must be a finite number above 0 and below 0.693"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Head(**settings)
