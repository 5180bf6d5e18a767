"""Bad input: one line, naming the argument and what to do, before any long work."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from infomcr_tf.regularizer import BetaSchedule, FisherRegularizedModel, SharpnessAwareModel

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
    with refuses("`loss` must be given"):
        FisherRegularizedModel(make_network()).compile("sgd")


class TestSmallBatches:
    def test_last_batch_of_arrays_before_training(self, make_network, images):
        x, y = images
        network = make_network()
        wrapper = FisherRegularizedModel(network)
        wrapper.compile("sgd", LOSS)
        before = network.get_weights()
        with refuses("num_sub_batches=8 for a batch of 4 examples. .*drop_remainder") as caught:
            wrapper.fit(x, y, batch_size=10, verbose=0)
        assert "\n" not in str(caught.value)
        for a, b in zip(before, network.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        wrapper.beta.assign(0.0)
        wrapper.fit(x, y, batch_size=10, verbose=0)  # nothing to cut: nothing to refuse

    def test_batch_known_only_in_the_graph(self, make_network, images):
        wrapper = FisherRegularizedModel(make_network())
        wrapper.compile("sgd", LOSS)
        data = tf.data.Dataset.from_tensor_slices(images).batch(10)
        with refuses("num_sub_batches=8 for a batch of fewer examples") as caught:
            wrapper.fit(data, verbose=0)
        assert "\n" not in str(caught.value)
        wrapper.fit(data.take(2), verbose=0)  # 10 and 10 examples

    def test_eagerly(self, make_network, images):
        wrapper = FisherRegularizedModel(make_network())
        wrapper.compile("sgd", LOSS, run_eagerly=True)
        with refuses("num_sub_batches=8 for a batch of 7 examples"):
            wrapper.train_on_batch(images[0][:7], images[1][:7])


class TestNotFinite:
    @pytest.mark.parametrize("data_term", ["batch", "sub_batches"])
    def test_names_the_step_and_spares_the_weights(self, make_network, images, data_term):
        x, y = images[0].copy(), images[1]
        x[17] = np.nan
        network = make_network()
        wrapper = FisherRegularizedModel(network, num_sub_batches=2, data_term=data_term)
        wrapper.compile(keras.optimizers.SGD(0.1), LOSS)
        with refuses("not finite at step 2: R_alpha = nan") as caught:
            wrapper.fit(x, y, batch_size=6, shuffle=False, verbose=0)
        assert "\n" not in str(caught.value)
        assert all(np.all(np.isfinite(w)) for w in network.get_weights())


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
        ({}, {"loss": lambda: keras.losses.SparseCategoricalCrossentropy(reduction="sum")},
         "`loss` must be averaged over the batch"),
        ({"data_term": "sub_batches"}, {}, "synchronized BatchNormalization"),
    ],
)  # fmt: skip
def test_under_a_strategy(make_network, options, compile, message):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        synchronized = "data_term" in options
        network = make_network(batch_norm=synchronized, synchronized=synchronized)
        wrapper = FisherRegularizedModel(network, **options)
        made = {k: v() if callable(v) else v for k, v in compile.items()}
        with refuses(message):
            wrapper.compile(**{"optimizer": "sgd", "loss": LOSS, **made})
