"""The kernels in the place of Keras' normalisation: values, derivatives, where they act."""

import contextlib
import pickle
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from infomcr_tf import fisher_penalty
from infomcr_tf.normalization_kernels import check_second_derivatives, normalization_kernels
from infomcr_tf.regularizer.step import fused_train_step

ORIGINALS = tf.nn.moments, tf.nn.batch_normalization
SHAPE = (5, 4, 6)
LAYERS = {
    "batch": lambda **o: layers.BatchNormalization(**o),
    "batch, epsilon of cuDNN": lambda **o: layers.BatchNormalization(epsilon=1e-5, **o),
    "batch, tiny epsilon": lambda **o: layers.BatchNormalization(epsilon=1e-6, **o),
    "batch, no scale": lambda **o: layers.BatchNormalization(scale=False, **o),
    "batch, no offset": lambda **o: layers.BatchNormalization(center=False, **o),
    "batch, neither": lambda **o: layers.BatchNormalization(center=False, scale=False, **o),
    "batch, another axis": lambda **o: layers.BatchNormalization(axis=1, **o),
    "batch, last axis from the front": lambda **o: layers.BatchNormalization(axis=3, **o),
    "batch, renorm": lambda **o: layers.BatchNormalization(renorm=True, **o),
    "batch, synchronized": lambda **o: layers.BatchNormalization(synchronized=True, **o),
    "batch, frozen": lambda **o: layers.BatchNormalization(trainable=False, **o),
    "layer": lambda **o: layers.LayerNormalization(**o),
    "layer, two axes": lambda **o: layers.LayerNormalization(axis=[3, 1], **o),
    "layer, from the back": lambda **o: layers.LayerNormalization(axis=[-1, -2], **o),
    "layer, neither": lambda **o: layers.LayerNormalization(center=False, scale=False, **o),
    "group": lambda **o: layers.GroupNormalization(2, **o),
    "group, another axis": lambda **o: layers.GroupNormalization(2, axis=2, **o),
    "group, first axis": lambda **o: layers.GroupNormalization(-1, axis=1, **o),
    "group, neither": lambda **o: layers.GroupNormalization(3, center=False, scale=False, **o),
}


def randomised(model):
    """The model, with weights that differ and are positive where they must be."""
    rng = np.random.default_rng(3)
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 1.5, size=weight.shape))
    return model


def model_of(layer, shape=SHAPE):
    return randomised(keras.Sequential([keras.Input(shape, dtype=layer.compute_dtype), layer]))


def fused_kernels(model, x, **call):
    """How many fused kernels `model(x)` puts into its graph."""
    graph = tf.function(lambda x: model(x, **call)).get_concrete_function(x).graph
    return sum(node.op.startswith("FusedBatchNormV3") for node in graph.as_graph_def().node)


def kernels_of(model, x):
    with normalization_kernels(model):
        return fused_kernels(model, x, training=True)


def relative_error(found, expected):
    """Of all entries together."""
    return np.linalg.norm(np.float64(found) - expected) / np.linalg.norm(np.float64(expected))


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(1.0, 2.0, size=(8, *SHAPE))


class TestIsKeras:
    """Output, gradients and moving averages, in training and at inference."""

    # Sums over at most 160 numbers of size 10, divided by a deviation.
    @pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-6)])
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("kind", LAYERS)
    def test_up_to_rounding(self, images, kind, training, dtype, tolerance):
        model = model_of(LAYERS[kind](dtype=dtype))
        start = model.get_weights()
        x = tf.constant(images, dtype)
        cotangent = tf.constant(np.random.default_rng(2).normal(size=x.shape), dtype)

        def results(context):
            model.set_weights(start)
            weights = [w.value for w in model.trainable_weights]
            with context(model), tf.GradientTape() as tape:
                tape.watch(x)
                y = model(x, training=training)
                loss = tf.reduce_sum(tf.tanh(y) * cotangent)
            return [y, *tape.gradient(loss, [x, *weights]), *model.get_weights()]

        expected = results(contextlib.nullcontext)
        for one, reference in zip(results(normalization_kernels), expected, strict=True):
            assert relative_error(one, reference) < tolerance

    def test_many_examples(self):
        """A moving variance that forgot to divide by n, not by n - 1, is off by a quarter here."""
        x = np.random.default_rng(0).normal(size=(5, 1, 1, 3)).astype("float32")
        model = model_of(layers.BatchNormalization(momentum=0.0), (1, 1, 3))
        with normalization_kernels(model):
            model(x, training=True)
        np.testing.assert_allclose(model.get_weights()[2], x.mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(model.get_weights()[3], x.var((0, 1, 2)), rtol=1e-5)

    def test_one_example_of_one_pixel(self):
        x = np.ones((1, 1, 1, 3), "float32")
        model = model_of(layers.BatchNormalization(momentum=0.0), (1, 1, 3))
        with normalization_kernels(model):
            y = model(x, training=True)
        np.testing.assert_array_equal(y[0, 0, 0], model.get_weights()[1])
        np.testing.assert_array_equal(model.get_weights()[3], 0.0)

    def test_batches_of_unknown_size(self, images):
        model = model_of(layers.BatchNormalization())
        start = model.get_weights()
        traced = tf.function(
            lambda x: model(x, training=True), [tf.TensorSpec([None, *SHAPE], tf.float32)]
        )
        with normalization_kernels(model):
            y = traced(images.astype("float32"))
        found = model.get_weights()
        model.set_weights(start)
        np.testing.assert_allclose(y, model(images, training=True), rtol=1e-4, atol=1e-5)
        for one, expected in zip(found, model.get_weights(), strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-5)

    def test_masks(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(4, 6, 3)).astype("float32")
        x[2:, 4:] = 0.0  # left out by the mask
        body = [layers.Masking(), layers.BatchNormalization(), layers.LayerNormalization()]
        model = randomised(keras.Sequential([keras.Input((6, 3)), *body]))
        start = model.get_weights()
        expected, moved = model(x, training=True), model.get_weights()
        model.set_weights(start)
        with normalization_kernels(model):
            np.testing.assert_allclose(model(x, training=True), expected, rtol=1e-5, atol=1e-6)
        for one, other in zip(model.get_weights(), moved, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
    @pytest.mark.parametrize("kind", ["batch", "layer", "group"])
    def test_low_precision(self, images, kind, dtype):
        model = model_of(LAYERS[kind](dtype=dtype))
        x = tf.cast(images, model.layers[0].compute_dtype)
        expected = model(x, training=True)
        with normalization_kernels(model):
            found = model(x, training=True)
        assert found.dtype == expected.dtype
        # Both compute in float32 and round once: to 2^-11 or 2^-8.
        tolerance = 1e-3 if "b" not in dtype else 1e-2
        np.testing.assert_allclose(
            tf.cast(found, "float32"), tf.cast(expected, "float32"), rtol=tolerance, atol=tolerance
        )

    def test_training_step(self, images):
        """`fused_train_step` moves weights, moving averages and metrics as Keras' step does."""
        x, y = images.astype("float32"), np.arange(8) % 3
        body = [
            layers.Conv2D(8, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(3),
        ]
        model = randomised(keras.Sequential([keras.Input(SHAPE), *body]))
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        start = model.get_weights()
        outcomes = []
        for step in (keras.Model.train_step, fused_train_step):
            model.set_weights(start)
            model.optimizer.build(model.trainable_variables)
            for variable in model.optimizer.variables[2:]:
                variable.assign(tf.zeros_like(variable))
            model.reset_metrics()
            traced = tf.function(lambda step=step: step(model, (x, y)), autograph=False)
            logs = [traced() for _ in range(2)][-1]
            outcomes.append([*model.get_weights(), *logs.values()])
        for one, expected in zip(*outcomes, strict=True):
            assert relative_error(one, expected) < 1e-5


class TestSecondDerivative:
    @pytest.mark.parametrize("kind", LAYERS)
    def test_against_differences(self, images, kind):
        """Of a loss along a direction, in float64: right, or refused."""
        model = model_of(LAYERS[kind](dtype="float64"))
        rng = np.random.default_rng(2)
        cotangent, direction = (tf.constant(v) for v in rng.normal(size=(2, *images.shape)))

        @tf.function
        def gradient(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.tanh(model(x, training=True)) * cotangent)
            return tape.gradient(loss, x)

        x = tf.constant(images)
        with normalization_kernels(model):
            graph = gradient.get_concrete_function(x).graph
            if kind == "batch, renorm":
                with pytest.raises(ValueError, match=r"must not use `tf.nn.moments`.*batch_norm"):
                    check_second_derivatives(graph)
                return
            check_second_derivatives(graph)
            with tf.GradientTape() as tape:
                tape.watch(x)
                along = tf.reduce_sum(gradient(x) * direction)
            found = tape.gradient(along, x)
        step = 1e-5
        ends = [gradient(x + sign * step * direction) for sign in (1, -1)]
        # Truncation: 1e-10 of a third derivative; rounding: 1e-16 / 1e-5.
        assert relative_error(found, (ends[0] - ends[1]) / (2 * step)) < 1e-8

    def test_the_fused_kernel(self, images):
        model = {d: model_of(layers.BatchNormalization(dtype=d)) for d in ("float32", "float64")}
        cotangent, direction = np.random.default_rng(2).normal(size=(2, *images.shape))

        def second(dtype):
            x = tf.constant(images, dtype)
            with normalization_kernels(model[dtype]), tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = model[dtype](x, training=True)
                    loss = tf.reduce_sum(tf.tanh(y) * tf.constant(cotangent, dtype))
                along = tf.reduce_sum(tape.gradient(loss, x) * tf.constant(direction, dtype))
            return outer.gradient(along, x)

        assert relative_error(second("float32"), second("float64")) < 5e-6

    @pytest.mark.parametrize("name", [None, "statistics"])
    def test_own_layers_with_tf_nn_moments_are_refused(self, name):
        @keras.saving.register_keras_serializable(package="tests")
        class Standardised(keras.layers.Layer):
            def call(self, x):
                mean, variance = tf.nn.moments(x, [1], keepdims=True, name=name)
                return (x - mean) * tf.math.rsqrt(variance + 1e-3)

        model = keras.Sequential([keras.Input((4,)), Standardised(name="mine"), layers.Dense(1)])
        x, y = np.ones((4, 4), "float32"), np.zeros((4, 1), "float32")
        options = {"loss": "mean_squared_error", "num_sub_batches": 2}
        fisher_penalty(model, x, y, **options)  # the finite difference needs first derivatives only
        with pytest.raises(ValueError, match=r"must not use `tf.nn.moments`.*Received: .*mine"):
            fisher_penalty(model, x, y, estimator="hessian_vector", **options)

    def test_means_and_variances_of_keras_are_allowed(self):
        def standardised(x):
            mean, variance = keras.ops.mean(x, -1, True), keras.ops.var(x, -1, True)
            return (x - mean) * keras.ops.rsqrt(variance + 1e-3)

        graph = tf.function(standardised).get_concrete_function(tf.ones([2, 3])).graph
        check_second_derivatives(graph)


class TestWhere:
    """Which layers are fused, and what else is touched: nothing."""

    @pytest.mark.parametrize("kind", LAYERS)
    def test_layers(self, images, kind):
        model = model_of(LAYERS[kind]())
        unfused = ("tiny", "another", "renorm", "synchronized", "frozen", "layer", "group")
        x = tf.constant(images, tf.float32)
        assert kernels_of(model, x) == (not any(word in kind for word in unfused))
        assert fused_kernels(model, x, training=True) == 0

    def test_nested(self, images):
        inner = keras.Sequential([layers.BatchNormalization(), layers.BatchNormalization()])
        wrapped = layers.TimeDistributed(layers.BatchNormalization())

        class Block(layers.Layer):
            def __init__(self):
                super().__init__()
                self.parts = {"first": [layers.BatchNormalization()]}

            def call(self, x, training=None):
                return self.parts["first"][0](x, training=training)

        inputs = keras.Input(SHAPE)
        y = Block()(inner(inputs))
        y = wrapped(layers.Reshape((1, *SHAPE))(y))
        assert kernels_of(keras.Model(inputs, y), tf.constant(images, tf.float32)) == 4

    def test_classes_of_ones_own(self, images):
        class Renamed(layers.BatchNormalization):
            def __init__(self, **options):
                super().__init__(momentum=0.9, **options)

        class Own(layers.BatchNormalization):
            def call(self, x, training=None, mask=None):
                return 2 * super().call(x, training=training, mask=mask)

        x = tf.constant(images, tf.float32)
        assert kernels_of(model_of(Renamed()), x) == 1
        model = model_of(Own())
        assert kernels_of(model, x) == 0
        expected = model(x, training=True)
        with normalization_kernels(model):
            np.testing.assert_array_equal(model(x, training=True), expected)

    def test_a_call_that_was_replaced_before_is_kept(self, images):
        model = model_of(layers.BatchNormalization())
        model.layers[0].call = lambda x, **_: 3 * x
        with normalization_kernels(model):
            np.testing.assert_array_equal(model(images[:1]), 3 * images[:1].astype("float32"))

    def test_other_models_other_threads_and_tensorflow_are_not_touched(self, images):
        model, other = (model_of(layers.BatchNormalization()) for _ in range(2))
        x, seen = tf.constant(images, tf.float32), []

        def elsewhere():
            seen.append((tf.nn.moments, tf.nn.batch_normalization) == ORIGINALS)
            seen.append(fused_kernels(model, x, training=True))

        with normalization_kernels(model):
            assert (tf.nn.moments, tf.nn.batch_normalization) == ORIGINALS
            assert fused_kernels(other, x, training=True) == 0
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            assert fused_kernels(model, x, training=True) == 1
        assert seen == [True, 0]


class TestLeaving:
    @pytest.fixture
    def model(self):
        return model_of(layers.BatchNormalization())

    def is_replaced(self, model):
        return "call" in vars(model.layers[0])

    def test_nothing_is_left_behind(self, model):
        before = pickle.dumps(sorted(vars(model.layers[0])))
        with normalization_kernels(model):
            assert self.is_replaced(model)
        assert pickle.dumps(sorted(vars(model.layers[0]))) == before

    def test_after_an_error(self, model, images):
        with pytest.raises(RuntimeError), normalization_kernels(model):
            raise RuntimeError
        assert kernels_of(model, tf.constant(images, tf.float32)) == 1
        assert fused_kernels(model, tf.constant(images, tf.float32), training=True) == 0

    def test_within_itself(self, model, images):
        x = tf.constant(images, tf.float32)
        with normalization_kernels(model):
            with normalization_kernels(model):
                pass
            assert fused_kernels(model, x, training=True) == 1
        assert not self.is_replaced(model)

    def test_threads_that_leave_in_the_order_they_came(self, model, images):
        x, found, errors = tf.constant(images, tf.float32), [], []
        entered, left = threading.Barrier(2, timeout=60), threading.Event()

        def run(first):
            try:
                with normalization_kernels(model):
                    entered.wait()
                    if not first:
                        left.wait(60)
                        found.append(fused_kernels(model, x, training=True))
                left.set()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(first,)) for first in (True, False)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert found == [1]
        assert not self.is_replaced(model)
