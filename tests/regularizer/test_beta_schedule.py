"""When the penalty acts: learning rates that rise, fall, jump and come back."""

import json

import keras
import numpy as np
import pytest

from infomcr_tf.regularizer import SCHEDULES, BetaSchedule, FisherRegularizedModel

X, Y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")


@pytest.fixture
def wrapper():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    wrapper = FisherRegularizedModel(model, beta=8.0, num_sub_batches=2)
    # never moves: only beta matters
    wrapper.compile(keras.optimizers.SGD(0.0), "mse")
    return wrapper


def betas(wrapper, schedule, rates):
    """The betas of the epochs that have these learning rates, without training."""
    schedule.set_model(wrapper)
    schedule.set_params({"epochs": len(rates)})
    found = []
    for epoch, rate in enumerate(rates):
        wrapper.optimizer.learning_rate = rate
        schedule.on_epoch_begin(epoch)
        found.append(float(wrapper.beta.numpy()))
    return found


@pytest.mark.parametrize(
    ("schedule", "rates", "expected"),
    [
        ("after-first-drop", [0.1, 0.1, 0.01, 0.01, 0.001], [0, 0, 8, 8, 8]),
        ("after-first-drop", [0.1, 0.1, 0.1], [0, 0, 0]),
        # a warm-up is no drop, even where it starts with a constant
        ("after-first-drop", [0.01, 0.01, 0.05, 0.1, 0.1, 0.05], [0, 0, 0, 0, 0, 8]),
        # rounding is no drop
        ("after-first-drop", [0.1, 0.1 * (1 - 5e-8), 0.1], [0, 0, 0]),
        # a rate that comes back does not switch the penalty off
        ("after-first-drop", [0.1, 0.01, 0.1, 0.1], [0, 8, 8, 8]),
        ("never", [0.1, 0.01], [0, 0]),
        ("always", [0.1, 0.01], [8, 8]),
        ("111", [1.0, 0.1, 0.01, 0.001], [8, 8, 8, 8]),
        ("011", [1.0, 0.1, 0.01, 0.001], [0, 8, 8, 8]),
        ("001", [1.0, 0.1, 0.01, 0.001], [0, 0, 8, 8]),
        ("100", [1.0, 0.1, 0.01, 0.001], [8, 0, 0, 0]),
        ("010", [1.0, 0.1, 0.1, 0.01, 0.001], [0, 8, 8, 0, 0]),
        ("linear", [0.1] * 5, [0, 2, 4, 6, 8]),
        ("cosine", [0.1] * 5, [0, 4 - 4 / np.sqrt(2), 4, 4 + 4 / np.sqrt(2), 8]),
    ],
)
def test_schedules(wrapper, schedule, rates, expected):
    assert betas(wrapper, BetaSchedule(schedule), rates) == pytest.approx(expected, abs=1e-6)


def test_own_beta_and_initial_learning_rate(wrapper):
    assert betas(wrapper, BetaSchedule("011", beta=3.0), [0.1, 0.01]) == [0, 3]
    resumed = BetaSchedule("after-first-drop", initial_learning_rate=0.1)
    assert betas(wrapper, resumed, [0.01, 0.01]) == [8, 8]


def test_interrupted_anywhere_is_the_same(wrapper):
    rates = [0.01, 0.1, 0.1, 0.02, 0.02, 0.004, 0.004]
    for schedule in SCHEDULES:
        if schedule in ("linear", "cosine"):
            continue  # stateless
        whole = betas(wrapper, BetaSchedule(schedule), rates)
        for cut in range(1, len(rates)):
            first, second = BetaSchedule(schedule), BetaSchedule(schedule)
            start = betas(wrapper, first, rates[:cut])
            second.set_state(json.loads(json.dumps(first.get_state())))
            assert start + betas(wrapper, second, rates[cut:]) == whole


class TestInFit:
    def epochs(self, wrapper, callbacks, epochs=4):
        return wrapper.fit(X, Y, epochs=epochs, verbose=0, callbacks=callbacks).history

    def test_learning_rate_scheduler(self, wrapper):
        rates = [0.02, 0.1, 0.1, 0.01]
        scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: rates[epoch])
        history = self.epochs(wrapper, [scheduler, BetaSchedule()])
        assert history["beta"] == [0, 0, 0, 8]
        assert history["learning_rate"] == pytest.approx(rates)
        assert history["fisher_penalty"][:3] == [0, 0, 0]
        assert history["fisher_penalty"][3] != 0

    def test_reduce_on_plateau(self, wrapper):
        wrapper.optimizer.learning_rate = 1e-12
        plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.1, patience=1, min_delta=1)
        history = self.epochs(wrapper, [BetaSchedule(), plateau])
        assert history["beta"] == [0, 0, 8, 8]

    def test_logs_the_rate_of_the_epoch_though_the_next_one_has_been_set(self, wrapper):
        wrapper.optimizer.learning_rate = 1e-12
        plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.1, patience=1, min_delta=1)
        used = []

        class Record(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                used.append(float(self.model.optimizer.learning_rate))

        history = self.epochs(wrapper, [Record(), plateau, BetaSchedule()])
        assert history["learning_rate"] == used == pytest.approx([1e-12, 1e-12, 1e-13, 1e-14])

    def test_learning_rate_schedule_within_an_epoch(self):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        wrapper = FisherRegularizedModel(model, num_sub_batches=1)
        rate = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.01])
        wrapper.compile(keras.optimizers.SGD(rate), "mse")
        seen = []

        class Record(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                seen.append(float(self.model.beta.numpy()))

        wrapper.fit(
            np.tile(X, (2, 1)),
            np.tile(Y, (2, 1)),
            batch_size=2,
            verbose=0,
            callbacks=[BetaSchedule(), Record()],
        )
        # PiecewiseConstantDecay keeps the first value up to and including step 2.
        assert seen == [0, 0, 0, 10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "after-first-dorp"}, "Did you mean 'after-first-drop'"),
        ({"schedule": "0111"}, "`schedule` must be one of"),
        ({"beta": -1.0}, "`beta`"),
        ({"initial_learning_rate": 0.0}, "`initial_learning_rate`"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BetaSchedule(**options)


def test_state_of_another_schedule_is_refused():
    with pytest.raises(ValueError, match="`state` must come from a 'always' schedule"):
        BetaSchedule("always").set_state(BetaSchedule("never").get_state())
