"""Bad input: one line, naming the argument and what to do, before any long work."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from infomcr_tf.regularizer import (
    BetaSchedule,
    FisherRegularizedModel,
    SharpnessAwareModel,
    fisher_penalty,
)

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def refuses(message, error=ValueError):
    return pytest.raises(error, match=message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, "`alpha` must be a finite number above 0. Received: alpha=0"),
        ({"alpha": -1e-4}, "`alpha`"),
        ({"alpha": "small"}, "`alpha`"),
        ({"beta": -1.0}, "`beta` must be a finite number >= 0. Received: beta=-1.0"),
        ({"beta": float("inf")}, "`beta`"),
        ({"num_sub_batches": 0}, "`num_sub_batches` must be an integer >= 1"),
        ({"num_sub_batches": True}, "`num_sub_batches`"),
        ({"data_term": "subbatches"}, "`data_term` .* Did you mean 'sub_batches'"),
        ({"estimator": "hessian"}, "`estimator` .* Did you mean 'hessian_vector'"),
        ({"direction": "down"}, "`direction` must be one of"),
        ({"every": 0}, "`every` must be an integer >= 1"),
        ({"fraction": 0.0}, r"`fraction` must be a finite number above 0 and <= 1"),
        ({"fraction": 1.5}, "`fraction`"),
    ],
)
def test_arguments(make_network, options, message):
    with refuses(message) as caught:
        FisherRegularizedModel(make_network(), **options)
    assert "\n" not in str(caught.value)


def test_models(make_network):
    with refuses("`model` must be a `keras.Model`. Received: Dense", TypeError):
        FisherRegularizedModel(keras.layers.Dense(3))
    with refuses("already"):
        FisherRegularizedModel(FisherRegularizedModel(make_network()))
    with refuses("`rho`"):
        SharpnessAwareModel(make_network(), rho=0.0)
    with refuses(
        "`BetaSchedule` needs a `FisherRegularizedModel`. Received: Functional", TypeError
    ):
        BetaSchedule().set_model(make_network())


def test_no_loss(make_network):
    for loss in (None, {"a": None, "b": None}):
        with refuses("`loss` must be given"):
            FisherRegularizedModel(make_network()).compile("sgd", loss)


def test_sums_of_sub_batches(make_network):
    wrapper = FisherRegularizedModel(make_network(), data_term="sub_batches")
    for reduction in ("sum", None):
        loss = keras.losses.SparseCategoricalCrossentropy(reduction=reduction)
        with refuses(f"`data_term` must be 'batch' or 'auto'.*reduction={reduction!r}"):
            wrapper.compile("sgd", loss)


class TestSmallBatches:
    """One batch of fewer than M examples is cut into single ones; an epoch of them is an error."""

    def wrapper(self, make_network):
        wrapper = FisherRegularizedModel(make_network())
        wrapper.compile("sgd", LOSS)
        return wrapper

    def test_arrays_before_training(self, make_network, images):
        wrapper = self.wrapper(make_network)
        before = wrapper.get_weights()
        for options in ({"batch_size": 7}, {"batch_size": 10, "validation_split": 0.75}):
            with refuses("num_sub_batches=8 for batches of [67] examples.*Lower") as caught:
                wrapper.fit(*images, verbose=0, **options)
            assert "\n" not in str(caught.value)
        for a, b in zip(before, wrapper.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        wrapper.beta.assign(0.0)
        wrapper.fit(*images, batch_size=7, verbose=0)  # nothing to cut: nothing to refuse

    def test_data_sets(self, make_network, images):
        wrapper = self.wrapper(make_network)
        data = tf.data.Dataset.from_tensor_slices(images)
        with refuses("num_sub_batches=8 for batches of 7 examples"):
            wrapper.fit(data.batch(7, drop_remainder=True), verbose=0)
        with refuses("num_sub_batches=8 for an epoch of batches of at most 7 examples") as caught:
            wrapper.fit(data.batch(7), verbose=0)
        assert "\n" not in str(caught.value)
        wrapper.fit(data.batch(10), epochs=2, verbose=0)  # 10, 10 and 4 examples

    def test_fisher_penalty(self, make_network, images):
        x, y = images[0][:7], images[1][:7]
        with refuses("num_sub_batches=8 for a batch of 7 examples"):
            fisher_penalty(make_network(), x, y, loss=LOSS)


class TestNotFinite:
    @pytest.mark.parametrize("data_term", ["batch", "sub_batches"])
    def test_names_the_step_and_spares_the_weights(self, make_network, images, data_term):
        x, y = images[0].copy(), images[1]
        x[17] = np.nan
        network = make_network()
        wrapper = FisherRegularizedModel(network, num_sub_batches=2, data_term=data_term)
        wrapper.compile(keras.optimizers.SGD(0.1), LOSS)
        with refuses("The loss is not finite at step 2: on average nan") as caught:
            wrapper.fit(x, y, batch_size=6, shuffle=False, verbose=0)
        assert "\n" not in str(caught.value)
        assert all(np.all(np.isfinite(w)) for w in network.get_weights())

    def test_a_penalty_that_is_not_finite(self):
        """The loss is 0.5 (w x - y)^2 at huge x: finite, with a gradient whose square is not."""
        network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        network.set_weights([np.zeros((1, 1))])
        wrapper = FisherRegularizedModel(network, num_sub_batches=2)
        wrapper.compile("sgd", "mse")
        with refuses("The penalty is not finite at step 0: R_alpha = "):
            wrapper.fit(np.full((4, 1), 1e30), np.ones((4, 1)), batch_size=4, verbose=0)


class TestModels:
    def test_stateful(self):
        layers = [keras.Input(batch_shape=(8, 5, 2)), keras.layers.LSTM(4, stateful=True)]
        wrapper = FisherRegularizedModel(keras.Sequential([*layers, keras.layers.Dense(3)]))
        wrapper.compile("sgd", LOSS)
        with refuses("stateful recurrent layers.*Received: layer 'lstm") as caught:
            wrapper.fit(np.zeros((8, 5, 2)), np.zeros(8), batch_size=8, verbose=0)
        assert "\n" not in str(caught.value)

    def test_training_of_ones_own(self):
        class Own(keras.Model):
            def compute_loss(self, **arguments):
                return super().compute_loss(**arguments)

        inputs = keras.Input((3,))
        with refuses("its own `compute_loss` would not be called"):
            FisherRegularizedModel(Own(inputs, keras.layers.Dense(2)(inputs)))

    def test_variables_of_tensorflow_that_are_assigned(self, images):
        class Counts(keras.layers.Layer):
            def __init__(self):
                super().__init__()
                self.calls = tf.Variable(0, trainable=False)

            def call(self, x):
                self.calls.assign_add(1)
                return x

        layers = [keras.Input((6, 6, 2)), keras.layers.Flatten(), Counts(), keras.layers.Dense(4)]
        wrapper = FisherRegularizedModel(keras.Sequential(layers), num_sub_batches=4)
        wrapper.compile("sgd", LOSS)
        with refuses("must hold what it assigns in training in Keras' variables") as caught:
            wrapper.fit(*images, verbose=0)
        assert "\n" not in str(caught.value)


class TestShortFormats:
    @pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
    def test_finite_difference(self, policy, images):
        layers = [
            keras.Input((6, 6, 2)),
            keras.layers.Flatten(),
            keras.layers.Dense(4, dtype=policy),
        ]
        wrapper = FisherRegularizedModel(keras.Sequential(layers))
        with refuses("set_dtype_policy.*hessian_vector.*Received: estimator='finite_difference'"):
            wrapper.compile("sgd", LOSS)

    @pytest.mark.parametrize("mode", ["float8", "int8"])
    @pytest.mark.parametrize("estimator", ["finite_difference", "hessian_vector"])
    def test_quantized(self, mode, estimator):
        network = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
        network.quantize(mode)
        wrapper = FisherRegularizedModel(network, estimator=estimator)
        with refuses(f"Received: layer 'dense.*' in {mode}"):
            wrapper.compile("sgd", LOSS)

    def test_float16_hessian_vector(self):
        layers = [keras.Input((3,)), keras.layers.Dense(4, dtype="mixed_float16")]
        wrapper = FisherRegularizedModel(keras.Sequential(layers), estimator="hessian_vector")
        with refuses("float16"):
            wrapper.compile("sgd", LOSS)


@pytest.mark.parametrize(
    ("options", "compile", "message"),
    [
        ({"num_sub_batches": 3}, {}, "divisible by the number of replicas.*replicas=2"),
        ({}, {"jit_compile": True}, "`jit_compile` must be False under a distribution strategy"),
        (
            {},
            {"optimizer": lambda: keras.optimizers.SGD(gradient_accumulation_steps=2)},
            "`gradient_accumulation_steps` is not supported",
        ),
        (
            {},
            {"loss": lambda: keras.losses.SparseCategoricalCrossentropy(reduction="sum")},
            "`loss` must be averaged over the batch",
        ),
        ({"data_term": "sub_batches"}, {}, "synchronized BatchNormalization"),
    ],
)
def test_under_a_strategy(make_network, options, compile, message):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        synchronized = "data_term" in options
        network = make_network(batch_norm=synchronized, synchronized=synchronized)
        wrapper = FisherRegularizedModel(network, **options)
        made = {k: v() if callable(v) else v for k, v in compile.items()}
        with refuses(message):
            wrapper.compile(**{"optimizer": "sgd", "loss": LOSS, **made})
