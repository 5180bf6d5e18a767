"""What float32 leaves of a small difference, and how the user hears of it."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from parameters import some

from infomcr_tf.regularizer import FisherRegularizedModel, check_alpha, fisher_penalty

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class TestCheckAlpha:
    @pytest.mark.parametrize("alpha", some([1e-7, 1e-5, 1e-3], [1e-5]))
    def test_estimates_the_true_ratio(self, net_a, numbers, request, alpha):
        """The estimate in float32 alone against the error that float64 shows."""
        arguments = {"loss": LOSS, "alpha": alpha, "num_sub_batches": 4}
        x, y = numbers["images"], numbers["labels"]
        network = net_a(numbers)
        _, found = fisher_penalty(network, x, y, **arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = check_alpha(network, x, y, **arguments)
        request.getfixturevalue("float64")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        _, exact = fisher_penalty(
            net_a(numbers), x.astype("float64"), y, **{**arguments, "loss": loss}
        )
        error = sum(np.sum((a.numpy() - b.numpy()) ** 2) for a, b in zip(found, exact, strict=True))
        ratio = np.sqrt(sum(np.sum(b.numpy() ** 2) for b in exact) / error)
        # An order of magnitude is what the estimate is for.
        assert 0.2 < report.signal_to_rounding / ratio < 5

    def test_warns_which_way(self, net_a, numbers):
        network = net_a(numbers)
        x, y = numbers["images"], numbers["labels"]
        with pytest.warns(UserWarning, match="`alpha` is too small.*Received: alpha=1e-08"):
            small = check_alpha(network, x, y, loss=LOSS, alpha=1e-8, num_sub_batches=4)
        assert small.too_small and not small.too_large
        with pytest.warns(UserWarning, match="`alpha` is too large.*Received: alpha=1"):
            large = check_alpha(network, x, y, loss=LOSS, alpha=1.0, num_sub_batches=4)
        assert large.too_large and not large.too_small

    def test_silent_where_alpha_is_right(self, net_a, numbers, recwarn):
        network = net_a(numbers)
        before = [v.numpy() for v in network.variables]
        report = check_alpha(
            network, numbers["images"], numbers["labels"], loss=LOSS, num_sub_batches=4
        )
        assert not [w for w in recwarn if "`alpha`" in str(w.message)]
        assert not report.too_small and not report.too_large
        assert report.linearity == pytest.approx(1.0, abs=1e-2)
        for a, b in zip(before, network.variables, strict=True):
            np.testing.assert_array_equal(a, b.numpy())

    def test_vanished_gradients_are_rounding(self):
        """Saturated examples: g = 0 exactly, nothing to difference."""
        network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
        network.set_weights([np.array([[200.0, -200.0], [0.0, 0.0]])])
        with pytest.warns(UserWarning, match="too small|too large"):
            check_alpha(network, np.ones((8, 2)), np.zeros(8, int), loss=LOSS)


class TestTF32:
    """Where a step runs, TensorFlow's setting as a kernel would read it."""

    @pytest.fixture
    def seen(self):
        return []

    @pytest.fixture
    def loss(self, seen):
        def read():
            seen.append(tf.config.experimental.tensor_float_32_execution_enabled())
            return np.float32(0)

        def loss(y, y_pred):
            with tf.control_dependencies([tf.numpy_function(read, [], tf.float32)]):
                return keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)

        return loss

    @pytest.mark.parametrize(
        ("options", "expected"),
        [({}, False), ({"allow_tf32": True}, True), ({"beta": 0.0}, True)],
    )
    def test_setting(self, make_network, images, seen, loss, options, expected):
        assert tf.config.experimental.tensor_float_32_execution_enabled()
        wrapper = FisherRegularizedModel(make_network(), num_sub_batches=2, **options)
        wrapper.compile("sgd", loss)
        wrapper.train_on_batch(*images)
        assert set(seen) == {expected}
        assert tf.config.experimental.tensor_float_32_execution_enabled()

    def test_restored_after_an_error(self, make_network, images):
        wrapper = FisherRegularizedModel(make_network(), num_sub_batches=2)
        wrapper.compile("sgd", LOSS)
        with pytest.raises(ValueError, match="not finite"):
            wrapper.train_on_batch(images[0] * np.nan, images[1])
        assert tf.config.experimental.tensor_float_32_execution_enabled()


def test_hessian_vector_in_bfloat16(net_a, numbers):
    """bfloat16 has 8 bits: its Hessian-vector product points where the exact one does."""
    x, y = numbers["images"], numbers["labels"]
    found = {}
    for policy in ("mixed_bfloat16", "float32"):
        keras.config.set_dtype_policy(policy)
        try:
            network = net_a(numbers)
        finally:
            keras.config.set_dtype_policy("float32")
        _, gradients = fisher_penalty(
            network, x, y, loss=LOSS, num_sub_batches=4, estimator="hessian_vector"
        )
        found[policy] = np.concatenate([np.ravel(g) for g in gradients])
    a, b = found.values()
    # Eight layers' roundings of 2^-8 each: some percent, so an angle with a cosine above 0.99.
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99
    assert np.linalg.norm(a) / np.linalg.norm(b) == pytest.approx(1, abs=0.05)
