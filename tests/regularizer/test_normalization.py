"""The replaced normalisation functions: values, derivatives, when they act, and that they leave."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from infomcr_tf.regularizer.functional_loss import FunctionalLoss
from infomcr_tf.regularizer.normalization import fused_normalization

ORIGINALS = tf.nn.moments, tf.nn.batch_normalization


def fused_calls(call, x):
    """How many fused kernels `call(x)` puts into its graph."""
    graph = tf.function(call).get_concrete_function(x).graph
    return sum(node.op.startswith("FusedBatchNormV3") for node in graph.as_graph_def().node)


def relative_error(found, expected):
    """Of all entries together."""
    return np.linalg.norm(np.float64(found) - expected) / np.linalg.norm(np.float64(expected))


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(1.0, 2.0, size=(8, 5, 4, 3))


class TestMoments:
    @pytest.mark.parametrize("axes", [0, [0, 1, 2], [1, 2], [-1]])
    @pytest.mark.parametrize("keepdims", [False, True])
    def test_values_and_gradient_are_tensorflows(self, images, axes, keepdims):
        x = tf.constant(images)
        found = []
        for context in (fused_normalization, threading.Lock):
            with context(), tf.GradientTape() as tape:
                tape.watch(x)
                mean, variance = tf.nn.moments(x, axes, keepdims=keepdims)
                scalar = tf.reduce_sum(tf.sin(mean)) + tf.reduce_sum(tf.math.log(variance + 1))
            found.append([mean, variance, tape.gradient(scalar, x)])
        for one, expected in zip(*found, strict=True):
            # float64, means of at most 160 numbers of size 10: some 1e-14
            np.testing.assert_allclose(one, expected, rtol=1e-12, atol=1e-13)

    def test_second_derivative_of_the_variance(self):
        # Var = x^T C x / n with the centring matrix C = I - 1/n: its Hessian is 2 C / n.
        n = 6
        x = tf.constant(np.random.default_rng(1).normal(size=n))
        with fused_normalization(), tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                _, variance = tf.nn.moments(x, [0])
            gradient = inner.gradient(variance, x)
        centring = np.eye(n) - 1 / n
        np.testing.assert_allclose(outer.jacobian(gradient, x), 2 / n * centring, atol=1e-15)


class TestBatchNormalization:
    def layer(self, **options):
        layer = keras.layers.BatchNormalization(epsilon=1e-5, **options)
        layer.build((None, 5, 4, 3))
        return layer

    def test_agrees_with_float64(self, images):
        """Output and derivatives up to the second, in float32 by the fused kernel."""
        rng = np.random.default_rng(2)
        cotangent, direction = rng.normal(size=(2, *images.shape))
        gamma = rng.normal(size=3)

        def derivatives(dtype, context):
            x, v = tf.constant(images, dtype), tf.constant(direction, dtype)
            scale, offset = tf.constant(gamma, dtype), tf.zeros(3, dtype)
            with context(), tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as tape:
                    tape.watch([x, scale, offset])
                    mean, variance = tf.nn.moments(x, [0, 1, 2])
                    y = tf.nn.batch_normalization(x, mean, variance, offset, scale, 1e-5)
                    loss = tf.reduce_sum(tf.tanh(y) * tf.constant(cotangent, dtype))
                first = tape.gradient(loss, [x, scale, offset])
                along = tf.reduce_sum(first[0] * v)
            return [y, *first, outer.gradient(along, x)]

        found = derivatives(tf.float32, fused_normalization)
        expected = derivatives(tf.float64, fused_normalization)  # not fused: that is float32 only
        for one, reference in zip(found, expected, strict=True):
            # float32 rounds to 6e-8; sums over 160 values, then a division by the deviation
            assert relative_error(one, reference) < 2e-6

    def test_is_fused_in_the_penalty(self, images):
        model = keras.Sequential([keras.Input((5, 4, 3)), self.layer(), keras.layers.Flatten()])
        loss = FunctionalLoss(model, keras.losses.MeanSquaredError())
        x, y = tf.constant(images, tf.float32), tf.zeros([8, 60])
        weights, seeds, _ = loss.read()
        assert fused_calls(lambda x: loss(weights, seeds, x, y, None)[0], x) == 1

    def test_moving_averages_are_those_of_keras(self, images):
        x = tf.constant(images, tf.float32)
        plain, fused = self.layer(), self.layer()
        plain(x, training=True)
        with fused_normalization():
            fused(x, training=True)
        for one, expected in zip(fused.weights, plain.weights, strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-6)

    @pytest.mark.parametrize(
        ("options", "call"),
        [
            ({}, {"training": False}),
            ({"trainable": False}, {"training": True}),
            ({"axis": 1}, {"training": True}),
        ],
        ids=["inference", "frozen", "channels first"],
    )
    def test_other_statistics_are_not_fused(self, images, options, call):
        layer = keras.layers.BatchNormalization(epsilon=1e-5, **options)
        x = tf.constant(images, tf.float32)
        expected = layer(x, **call)
        with fused_normalization():
            assert fused_calls(lambda x: layer(x, **call), x) == 0
            np.testing.assert_allclose(layer(x, **call), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("options", [{"center": False}, {"scale": False}])
    def test_without_offset_or_scale(self, images, options):
        layer = self.layer(**options)
        x = tf.constant(images, tf.float32)
        expected = layer(x, training=True)
        with fused_normalization():
            np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-5, atol=1e-6)

    def test_an_epsilon_too_small_for_cudnn(self, images):
        layer = keras.layers.BatchNormalization(epsilon=1e-6)
        x = tf.constant(images, tf.float32)
        with fused_normalization():
            assert fused_calls(lambda x: layer(x, training=True), x) == 0


class TestLeaving:
    def replaced(self):
        return (tf.nn.moments, tf.nn.batch_normalization) != ORIGINALS

    def test_after_an_error(self):
        with pytest.raises(RuntimeError), fused_normalization():
            assert self.replaced()
            raise RuntimeError
        assert not self.replaced()

    def test_threads_that_leave_in_the_order_they_came(self):
        first, second = fused_normalization(), fused_normalization()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert self.replaced()
        second.__exit__(None, None, None)
        assert not self.replaced()
