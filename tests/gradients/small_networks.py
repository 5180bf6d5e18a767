"""Small networks with real layers, and data to measure them on."""

import functools

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits


def conv_net(seed=0, num_classes=5):
    """Convolution, BatchNorm with statistics of its own, ReLU, Dropout, dense: 8x8x3 to logits."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(6, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(num_classes),
        ]
    )
    rng = np.random.default_rng(seed)
    gamma, beta, _, _ = model.layers[1].get_weights()
    statistics = [rng.normal(size=6) * 0.1, rng.uniform(0.5, 1.5, size=6)]
    model.layers[1].set_weights([gamma * 1.3, beta + 0.1, *statistics])
    return model


def images(num_examples, seed=0, num_classes=5):
    """Random images for `conv_net`, and labels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_examples, 8, 8, 3)).astype(np.float32)
    return x, rng.integers(num_classes, size=num_examples)


def equalising_condition(model, x):
    """How much the rounding of the logits counts in a temperature: the inverse relative margin."""
    ordered = np.sort(model(x).numpy(), axis=1)
    return (np.abs(ordered).max(axis=1) / (ordered[:, -1] - ordered[:, -2])).astype(float)


def digits(num_examples):
    """The first real handwritten digits, 64 features in [0, 1], and labels."""
    data = load_digits()
    return (data.data[:num_examples] / 16).astype(np.float32), data.target[:num_examples]


def digits_net(x, y, steps, seed=0):
    """A network with one hidden layer, trained for some steps on all examples at once."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(24, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, steps_per_execution=steps)
    dataset = tf.data.Dataset.from_tensors((x, y)).repeat()
    model.fit(dataset, steps_per_epoch=steps, shuffle=False, verbose=0)
    return model


@functools.cache
def saturated():
    """A network at a loss far below 1e-6, and the 40 digits it was trained on.

    The last part of the training, in which only the logits grow, is done in one step: the last
    layer times three.
    """
    x, y = digits(40)
    model = digits_net(x, y, steps=800)
    last = model.layers[-1]
    last.set_weights([3 * weight for weight in last.get_weights()])
    return model, x, y
