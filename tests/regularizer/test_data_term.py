"""What "auto" makes of models and losses: two evaluations only where they are exact."""

import keras
import pytest

from infomcr_tf.regularizer.data_term import resolve_data_term

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(*layers):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), *layers])


def frozen(layer):
    layer.trainable = False
    return layer


def with_operation():
    inputs = keras.Input((4,))
    return keras.Model(inputs, inputs - keras.ops.mean(inputs, axis=0))


class Own(keras.layers.Layer):
    def call(self, x):
        return x


class OwnModel(keras.Model):
    def call(self, x):
        return x


def own_loss(y, y_pred):
    return (y - y_pred) ** 2


@pytest.mark.parametrize(
    ("model", "loss", "num_sub_batches", "expected"),
    [
        (lambda: dense(), LOSS, 8, "sub_batches"),
        (lambda: dense(), "sparse_categorical_crossentropy", 8, "sub_batches"),
        (lambda: dense(), ["mse", {"a": LOSS}], 8, "sub_batches"),
        (lambda: dense(dense()), LOSS, 8, "sub_batches"),
        (lambda: dense(keras.layers.Dropout(0.5)), LOSS, 8, "sub_batches"),
        (lambda: dense(keras.layers.LayerNormalization()), LOSS, 8, "sub_batches"),
        (lambda: dense(keras.layers.BatchNormalization()), LOSS, 8, "batch"),
        (lambda: dense(dense(keras.layers.BatchNormalization())), LOSS, 8, "batch"),
        (lambda: dense(frozen(keras.layers.BatchNormalization())), LOSS, 8, "sub_batches"),
        (lambda: dense(keras.layers.Lambda(lambda x: x)), LOSS, 8, "batch"),
        (lambda: dense(Own()), LOSS, 8, "batch"),
        (lambda: OwnModel(), LOSS, 8, "batch"),
        (with_operation, LOSS, 8, "batch"),
        (lambda: dense(keras.layers.ActivityRegularization(0.1)), LOSS, 8, "batch"),
        (lambda: dense(), keras.losses.MeanSquaredError(reduction="sum"), 8, "batch"),
        (lambda: dense(), own_loss, 8, "batch"),
        (lambda: dense(), [LOSS, own_loss], 8, "batch"),
        # one sub-batch is the batch
        (lambda: dense(keras.layers.BatchNormalization()), LOSS, 1, "sub_batches"),
        (with_operation, own_loss, 1, "sub_batches"),
        (lambda: dense(keras.layers.BatchNormalization(synchronized=True)), LOSS, 1, "batch"),
        (lambda: dense(Own()), LOSS, 1, "batch"),
    ],
)
def test_auto(model, loss, num_sub_batches, expected):
    assert resolve_data_term("auto", model(), loss, num_sub_batches) == expected


@pytest.mark.parametrize("data_term", ["batch", "sub_batches"])
def test_what_is_asked_for_is_taken(data_term):
    model = dense(keras.layers.BatchNormalization())
    assert resolve_data_term(data_term, model, LOSS, 8) == data_term
