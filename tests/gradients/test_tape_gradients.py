"""Where TensorFlow cannot vectorise, or does it wrongly."""

import numpy as np
import pytest
import tensorflow as tf
from gradients.cases import make

from infomcr_tf.characterization import GradientEngine


def test_what_is_vectorised_wrongly_is_computed_row_by_row(monkeypatch):
    model, x, y = make("dense")
    expected = GradientEngine(model).gram(x, y).xi
    original = tf.GradientTape.jacobian

    def wrong(*args, experimental_use_pfor=True, **kwargs):
        rows = original(*args, experimental_use_pfor=False, **kwargs)
        return [2 * r for r in rows] if experimental_use_pfor else rows

    monkeypatch.setattr(tf.GradientTape, "jacobian", wrong)
    with pytest.warns(UserWarning, match="its result is not right"):
        actual = GradientEngine(model, method="jacobian").gram(x, y).xi
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * expected.max())


@pytest.mark.filterwarnings("ignore:TensorFlow cannot vectorise")
def test_grouped_convolutions_by_the_jacobian():
    # TensorFlow 2.21 vectorises their gradients wrongly on a CPU, without an error.
    model, x, y = make("grouped convolution")
    expected = GradientEngine(model).gram(x, y).xi
    actual = GradientEngine(model, method="jacobian").gram(x, y).xi
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * expected.max())


def test_operation_without_converter_falls_back_with_a_warning(monkeypatch):
    model, x, y = make("dense")
    expected = GradientEngine(model).gram(x, y).xi
    original = tf.GradientTape.jacobian

    def without_converter(*args, experimental_use_pfor=True, **kwargs):
        if experimental_use_pfor:
            raise ValueError("No pfor vectorization defined for Something")
        return original(*args, experimental_use_pfor=False, **kwargs)

    monkeypatch.setattr(tf.GradientTape, "jacobian", without_converter)
    with pytest.warns(UserWarning, match="No pfor vectorization defined for Something"):
        actual = GradientEngine(model, method="jacobian").gram(x, y).xi
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * expected.max())
