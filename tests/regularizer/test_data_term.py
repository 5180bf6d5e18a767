"""What "auto" makes of models and losses: two evaluations only where they are exact."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from infomcr_tf.regularizer.data_term import resolve_data_term

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(*layers):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), *layers])


def frozen(layer):
    layer.trainable = False
    return layer


def by_keras_functions(function):
    inputs = keras.Input((4,))
    return keras.Model(inputs, function(inputs))


class Own(keras.layers.Layer):
    def call(self, x):
        return x


class OwnDense(keras.layers.Dense):
    pass


class OwnModel(keras.Model):
    def call(self, x):
        return x


class OwnFunctional(keras.Model):
    def __init__(self):
        inputs = keras.Input((4,))
        super().__init__(inputs, keras.layers.Dense(4)(inputs))


class OwnLoss(keras.losses.MeanSquaredError):
    pass


def own_loss(y, y_pred):
    return (y - y_pred) ** 2


def batch(x=(8, 4), y=(8,), weights=None):
    arrays = [None if shape is None else tf.zeros(shape) for shape in (x, y, weights)]
    return tuple(arrays)


layers, losses = keras.layers, keras.losses
SAFE = {
    "dense": (dense, LOSS),
    "name": (dense, "sparse_categorical_crossentropy"),
    "function": (dense, losses.mean_squared_error),
    "nested losses": (dense, ["mse", {"a": LOSS}, None]),
    "nested models": (lambda: dense(dense()), LOSS),
    "dropout": (lambda: dense(layers.Dropout(0.5)), LOSS),
    "layer normalisation": (lambda: dense(layers.LayerNormalization()), LOSS),
    "frozen BatchNorm": (lambda: dense(frozen(layers.BatchNormalization())), LOSS),
    "recurrent": (
        lambda: dense(layers.Reshape((2, 2)), layers.Bidirectional(layers.GRU(3))),
        LOSS,
    ),
    "attention": (
        lambda: by_keras_functions(
            lambda x: layers.MultiHeadAttention(2, 2)(*[layers.Reshape((2, 2))(x)] * 2)
        ),
        LOSS,
    ),
    "smoothing": (dense, losses.CategoricalCrossentropy(label_smoothing=0.1)),
}
UNSAFE = {
    "BatchNorm": (lambda: dense(layers.BatchNormalization()), LOSS),
    "BatchNorm within": (lambda: dense(dense(layers.BatchNormalization())), LOSS),
    "lambda": (lambda: dense(layers.Lambda(lambda x: x)), LOSS),
    "own layer": (lambda: dense(Own()), LOSS),
    "own kind of Dense": (lambda: dense(OwnDense(4)), LOSS),
    "own model": (OwnModel, LOSS),
    "own functional model": (OwnFunctional, LOSS),
    "own activation": (lambda: dense(layers.Dense(4, activation=lambda x: x)), LOSS),
    "operation as activation": (
        lambda: dense(layers.Dense(4, activation=keras.ops.flip)),
        LOSS,
    ),
    "operation": (lambda: by_keras_functions(lambda x: x - keras.ops.mean(x, axis=0)), LOSS),
    "activity": (lambda: dense(layers.ActivityRegularization(0.1)), LOSS),
    "activity of a layer": (
        lambda: dense(layers.Dense(4, activity_regularizer="l2")),
        LOSS,
    ),
    "spectral norm": (lambda: dense(layers.SpectralNormalization(layers.Dense(4))), LOSS),
    "softmax over the batch": (lambda: dense(layers.Softmax(axis=0)), LOSS),
    "softmax over the batch, from behind": (lambda: dense(layers.Softmax(axis=-2)), LOSS),
    "norm over the batch": (lambda: dense(layers.UnitNormalization(axis=0)), LOSS),
    "dropout of the batch": (lambda: dense(layers.Dropout(0.5, noise_shape=(1, 4))), LOSS),
    "mask": (lambda: dense(layers.Reshape((2, 2)), layers.Masking()), LOSS),
    "mix": (lambda: dense(layers.Reshape((2, 2, 1)), layers.MixUp()), LOSS),
    "mask of an embedding": (lambda: dense(layers.Embedding(3, 2, mask_zero=True)), LOSS),
    "one axis": (lambda: dense(layers.Dense(1), layers.Reshape(())), "mse"),
    "sum": (dense, losses.MeanSquaredError(reduction="sum")),
    "no reduction": (dense, losses.MeanSquaredError(reduction=None)),
    "weighted mean": (dense, losses.MeanSquaredError(reduction="mean_with_sample_weight")),
    "ignore_class": (dense, losses.SparseCategoricalCrossentropy(ignore_class=0)),
    "axis": (dense, losses.CosineSimilarity(axis=0)),
    "dice": (dense, losses.Dice()),
    "tversky": (dense, "tversky"),
    "circle": (dense, losses.Circle()),
    "ctc": (dense, losses.CTC()),
    "own function": (dense, own_loss),
    "one own function": (dense, [LOSS, own_loss]),
    "own loss": (dense, OwnLoss()),
}


@pytest.mark.parametrize(("model", "loss"), SAFE.values(), ids=SAFE)
def test_safe(model, loss):
    assert resolve_data_term("auto", model(), loss, 8, batch()) == "sub_batches"


@pytest.mark.parametrize(("model", "loss"), UNSAFE.values(), ids=UNSAFE)
def test_everything_else(model, loss):
    assert resolve_data_term("auto", model(), loss, 8, batch()) == "batch"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (batch(weights=(8,)), "sub_batches"),
        (batch(weights=(8, 1)), "sub_batches"),
        (batch(weights=(8, 4)), "batch"),
        ((tf.sparse.from_dense(np.eye(8, 4)), tf.zeros(8), None), "batch"),
        ((tf.ragged.constant([[1.0], []]), tf.zeros(2), None), "batch"),
    ],
)
def test_batches(data, expected):
    assert resolve_data_term("auto", dense(), LOSS, 8, data) == expected


@pytest.mark.parametrize(
    ("model", "loss", "expected"),
    [
        (lambda: dense(layers.BatchNormalization()), LOSS, "sub_batches"),
        (dense, own_loss, "sub_batches"),
        (lambda: dense(layers.BatchNormalization(synchronized=True)), LOSS, "batch"),
        (lambda: dense(Own()), LOSS, "batch"),
    ],
)
def test_one_sub_batch_is_the_batch(model, loss, expected):
    assert resolve_data_term("auto", model(), loss, 1, batch()) == expected


@pytest.mark.parametrize("data_term", ["batch", "sub_batches"])
def test_what_is_asked_for_is_taken(data_term):
    model = dense(layers.BatchNormalization())
    assert resolve_data_term(data_term, model, LOSS, 8, batch()) == data_term
