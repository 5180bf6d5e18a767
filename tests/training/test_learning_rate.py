"""The learning rate: when it falls, and that what is logged is what an epoch was trained with."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from infomcr_tf.models import ARCHITECTURES
from infomcr_tf.training import TrainingRun
from infomcr_tf.training.learning_rate import (
    LEARNING_RATE_SCHEDULES,
    PLATEAU_LOWEST,
    PLATEAU_MIN_DELTA,
    Plateau,
    TrainingPlan,
)


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def rates(model, callback, losses, start=0):
    """The rates that epochs with these cross-entropies are trained with, and those logged."""
    callback.set_model(model)
    used, logged = [], []
    for epoch, loss in enumerate(losses, start=start):
        callback.on_epoch_begin(epoch)
        used.append(float(model.optimizer.learning_rate))
        logs = {"cross_entropy": loss, "loss": 9.0 - epoch}  # the weight decay still shrinks
        callback.on_epoch_end(epoch, logs)
        logged.append(logs["learning_rate"])
    assert logged == used
    return used


def test_a_plateau_is_one_of_the_cross_entropy(model):
    losses = [2.0, 1.0, 1.0, 1.1, 0.5, 0.5, 0.6, 0.7]
    callback = Plateau(0.1, patience=2)
    callback.on_train_begin()
    # After epochs 3 and 4 without a lower one, and again after 6 and 7.
    expected = [0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001]
    assert rates(model, callback, losses) == pytest.approx(expected)


def test_a_plateau_ignores_small_steps_and_has_a_lowest_rate(model):
    callback = Plateau(0.1, patience=1)
    callback.on_train_begin()
    step = PLATEAU_MIN_DELTA * 0.9
    found = rates(model, callback, [1.0 - step * (i > 0) for i in range(9)])
    expected = np.maximum([0.1, 0.1, *(0.1 ** np.arange(2, 9))], 0.1 * PLATEAU_LOWEST)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_plateau_is_resumed_anywhere(model, cut):
    losses = [2.0, 1.0, 1.0, 1.1, 0.5, 0.5, 0.6, 0.7]
    whole, first, second = (Plateau(0.1, patience=2) for _ in range(3))
    whole.on_train_begin()
    expected = rates(model, whole, losses)
    model.optimizer.learning_rate = 0.1
    first.on_train_begin()
    found = rates(model, first, losses[:cut])
    second.on_train_begin()
    second.set_state(json.loads(json.dumps(first.get_state())))
    assert found + rates(model, second, losses[cut:], start=cut) == expected


def test_a_plateau_is_judged_once_where_an_epoch_is_resumed_within(model):
    callback = Plateau(0.1, patience=1)
    callback.on_train_begin()
    rates(model, callback, [1.0, 1.0])
    callback.on_epoch_begin(2)
    state = json.loads(json.dumps(callback.get_state()))
    again = Plateau(0.1, patience=1)
    again.set_model(model)
    again.on_train_begin()
    again.set_state(state)
    again.on_epoch_begin(2)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)


@pytest.mark.parametrize("schedule", LEARNING_RATE_SCHEDULES)
def test_every_schedule_logs_the_rate_of_the_epoch(model, schedule):
    recipe = ARCHITECTURES["cnn"].recipe
    plan = TrainingPlan(recipe=recipe, learning_rate=0.1, epochs=4, patience=1)
    callback = LEARNING_RATE_SCHEDULES[schedule](plan)
    callback.on_train_begin()
    found = rates(model, callback, [1.0] * 4)
    # "recipe": the plain network's falls at a half and three quarters.
    expected = {
        "recipe": [0.1, 0.1, 0.01, 0.001],
        "plateau": [0.1, 0.1, 0.01, 0.001],
        "cosine": [0.05 * (1 + np.cos(np.pi * t / 4)) for t in range(4)],
        "constant": [0.1] * 4,
    }
    np.testing.assert_allclose(found, expected[schedule], rtol=1e-5)


def test_history_and_tensorboard_show_the_rate_of_the_epoch(small_config):
    # Nothing is learned at this rate: every epoch is a plateau.
    config = small_config(
        schedule="plateau", patience=1, learning_rate=1e-9, weight_decay=0.01, label_smoothing=0.1
    )
    run = TrainingRun(config)
    result = run.run(verbose=0)
    rows = run.folder.read_history()
    expected = [1e-9, 1e-9, 1e-10, 1e-11]
    np.testing.assert_allclose([row["learning_rate"] for row in rows], expected, rtol=1e-5)
    assert [row["beta"] for row in rows] == [0, 0, 10, 10]
    (events,) = (run.folder.logs_path / "train").glob("events.*")
    logged = [
        tf.make_ndarray(value.tensor).item()
        for record in tf.data.TFRecordDataset(str(events))
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value
        if value.tag == "epoch_learning_rate"
    ]
    np.testing.assert_allclose(logged, expected, rtol=1e-5)
    for row in rows:
        # The same 60 images in other batches: float32 means of losses of about 2.
        assert row["cross_entropy"] == pytest.approx(result["train"]["loss"], rel=1e-5)
        assert row["loss"] > row["cross_entropy"]
        assert row["val_cross_entropy"] == pytest.approx(result["validation"]["loss"], rel=1e-5)
