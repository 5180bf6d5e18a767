"""Loss and errors, against written-out versions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from infomcr_tf.training import evaluate, logits_function


def batches(logits, labels, size):
    return tf.data.Dataset.from_tensor_slices((logits, labels)).batch(size)


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_ragged_batches_are_counted_right(size):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(23, 12)).astype(np.float32)
    labels = rng.integers(12, size=23)
    found = evaluate(lambda x: x, batches(logits, labels, size), top_k=5)
    order = np.argsort(-logits, axis=1)
    own = labels[:, np.newaxis]
    losses = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(23), labels]
    assert found == {
        "loss": pytest.approx(losses.mean(), rel=1e-12),
        "error": np.mean(~(order[:, :1] == own).any(axis=1)),
        "top5_error": np.mean(~(order[:, :5] == own).any(axis=1)),
        "num_examples": 23,
    }


def test_equal_logits_are_won_by_the_first_class_as_argmax_has_it():
    found = evaluate(lambda x: x, batches(np.zeros((8, 8)), np.arange(8), 3), top_k=5)
    assert (found["error"], found["top5_error"]) == (7 / 8, 3 / 8)


def test_nan_is_wrong():
    logits = np.full((2, 8), np.nan)
    found = evaluate(lambda x: x, batches(logits, np.zeros(2, int), 2), top_k=5)
    assert (found["error"], found["top5_error"]) == (1, 1)
    logits = np.zeros((1, 8))
    logits[0, 0] = np.nan
    assert evaluate(lambda x: x, batches(logits, np.zeros(1, int), 1))["error"] == 1


def test_logits_function_uses_inference_mode_and_takes_any_batch():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.9)])
    logits_of = logits_function(model)
    for size in (1, 5):
        x = tf.random.normal((size, 3))
        np.testing.assert_array_equal(logits_of(x), x)
