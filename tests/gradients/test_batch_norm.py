"""BatchNorm with the statistics of chunks, and that nothing is ever left changed."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gradients.cases import floatx, make
from parameters import some

from infomcr_tf.characterization import GradientEngine, per_example_jacobian


def rows_with_batch_statistics(model, x, y, chunk):
    """d loss_j / dw with the statistics of j's chunk, one row at a time, by Keras' own training."""
    state = [v.numpy() for v in model.variables]
    rows = []
    for start in range(0, len(x), chunk):
        part = slice(start, start + chunk)
        for j in range(len(x[part])):
            with tf.GradientTape() as tape:
                logits = model(x[part], training=True)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y[part], logits)
                loss = losses[j]
            gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
            rows.append(np.concatenate([np.ravel(g) for g in gradients]))
    for variable, value in zip(model.variables, state, strict=True):
        variable.assign(value)
    return np.stack(rows)


def network(dtype="float64"):
    with floatx(dtype):
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input((6, 6, 3)),
                keras.layers.Conv2D(4, 3, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.Activation("tanh"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(5),
            ]
        )


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 6, 6, 3)), rng.integers(5, size=7)


@pytest.mark.parametrize("chunk", some([3, 7], [3]))
def test_rows_with_the_statistics_of_chunks(data, chunk):
    with floatx("float64"):
        model = network()
        actual = per_example_jacobian(model, *data, batch_norm="batch", chunk_size=chunk)
        expected = rows_with_batch_statistics(model, *data, chunk)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


def test_dropout_is_off_and_frozen_batch_norm_keeps_its_averages(data):
    with floatx("float64"):
        model = network()
        model.layers[1].trainable = False
        dropped = keras.Sequential(
            [*model.layers[:-1], keras.layers.Dropout(0.5), model.layers[-1]]
        )
        dropped.build((None, 6, 6, 3))
        batch = per_example_jacobian(dropped, *data, batch_norm="batch")
        inference = per_example_jacobian(model, *data)
    np.testing.assert_allclose(batch, inference, rtol=0, atol=1e-12)


def state(model):
    layers = list(model._flatten_layers())
    return (
        [v.numpy().copy() for v in model.variables],
        [layer.trainable for layer in layers],
        [set(layer.__dict__) for layer in layers],
        [getattr(layer, "activation", None) for layer in layers],
    )


def assert_same_state(before, after):
    for a, b in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert before[1:] == after[1:]


@pytest.mark.parametrize("batch_norm", ["inference", "batch"])
@pytest.mark.parametrize(
    "name", some(["normalisations", "softmax activation", "softmax layer"], ["normalisations"])
)
def test_nothing_is_left_changed(name, batch_norm):
    model, x, y = make(name)
    model(x)
    before = state(model)
    GradientEngine(model, batch_norm=batch_norm).gram(x, y)
    assert_same_state(before, state(model))


@pytest.mark.parametrize("batch_norm", ["inference", "batch"])
def test_nothing_is_left_changed_by_an_exception(batch_norm, monkeypatch):
    model, x, y = make("normalisations")
    model(x)

    def fail(*args, **kwargs):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(model.layers[-1], "call", fail)
    before = state(model)
    with pytest.raises(RuntimeError, match="in the middle"):
        GradientEngine(model, batch_norm=batch_norm).gram(x, y)
    assert_same_state(before, state(model))


def test_a_model_in_training_can_be_measured_in_between(data):
    x, y = data
    model, twin = network("float32"), network("float32")
    for m in (model, twin):
        m.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        m.train_on_batch(x, y)
    GradientEngine(model, batch_norm="batch").gram(x, y)
    for m in (model, twin):
        m.train_on_batch(x, y)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
