"""Where TensorFlow cannot vectorise, or does it wrongly."""

import numpy as np
import pytest
import tensorflow as tf
from characterization.cases import make

from infomcr_tf.characterization import GradientEngine


@pytest.mark.parametrize("method", ["one_example", "jacobian"])
def test_grouped_convolutions_are_right_though_vectorised_ones_are_not(method, recwarn):
    model, x, y = make("grouped convolution")
    expected = GradientEngine(model).gram(x, y).xi
    actual = GradientEngine(model, method=method).gram(x, y).xi
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * expected.max())
    if method == "jacobian":
        assert "its result is not right" in str(recwarn.pop(UserWarning).message)


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
