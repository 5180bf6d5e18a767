"""Small networks and data for the regulariser's tests."""

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
