"""Small networks and data for the regulariser's tests."""

from pathlib import Path

import keras
import numpy as np
import pytest

from infomcr_tf.regularizer import FisherRegularizedModel


@pytest.fixture
def float64():
    """Everything in float64: models, losses and the sums over them."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


@pytest.fixture
def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture
def images():
    """24 images of noise in 4 classes, with a brightness that depends on the class."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 24)
    x = rng.normal(size=(24, 6, 6, 2)) + y[:, None, None, None] / 4
    return x.astype("float32"), y


@pytest.fixture
def make_network():
    """A function that makes a small convolutional network from the parts asked for."""

    def make(batch_norm=False, dropout=0.0, l2=0.0, activation="softplus", synchronized=False):
        keras.utils.set_random_seed(7)
        regularizer = keras.regularizers.L2(l2) if l2 else None
        options = {"kernel_regularizer": regularizer, "bias_regularizer": regularizer}
        inputs = keras.Input((6, 6, 2))
        h = keras.layers.Conv2D(5, 3, strides=2, **options)(inputs)
        if batch_norm:
            h = keras.layers.BatchNormalization(momentum=0.9, synchronized=synchronized)(h)
        h = keras.layers.Activation(activation)(h)
        h = keras.layers.GlobalAveragePooling2D()(h)
        if dropout:
            h = keras.layers.Dropout(dropout)(h)
        return keras.Model(inputs, keras.layers.Dense(4, **options)(h))

    return make


@pytest.fixture
def train():
    """A function that wraps, compiles and trains; returns the wrapper."""

    def train(model, x, y, *, optimizer=None, loss=None, fit=None, compile=None, **options):
        wrapper = FisherRegularizedModel(model, **options)
        wrapper.compile(
            optimizer or keras.optimizers.SGD(0.1, momentum=0.9),
            loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            **(compile or {}),
        )
        wrapper.history_ = wrapper.fit(x, y, **{"verbose": 0, "batch_size": len(y), **(fit or {})})
        return wrapper

    return train


@pytest.fixture(scope="session")
def numbers():
    """Net A: images, labels, weights, and what two other implementations make of them."""
    return np.load(Path(__file__).with_name("net_a.npz"))


@pytest.fixture
def net_a():
    """A function that makes the small network that the reference numbers are about."""

    def make(weights):
        """The small network that the reference numbers are about."""
        inputs = h = keras.Input((16, 16, 3))
        for k, filters in ((1, 8), (2, 16)):
            h = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{k}")(h)
            h = keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"bn{k}")(h)
            h = keras.layers.ReLU()(h)
            h = keras.layers.AveragePooling2D(2)(h) if k == 1 else h
        h = keras.layers.GlobalAveragePooling2D()(h)
        model = keras.Model(inputs, keras.layers.Dense(10, name="fc")(h))
        for variable in model.weights:
            variable.assign(weights[f"w/{variable.path}"])
        return model

    return make
