"""Losses, gradients and penalties that are NaN or infinite: stop with the facts, or skip."""

import csv
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from infomcr_tf.data.order import START, Position
from infomcr_tf.regularizer.replicas import read
from infomcr_tf.training import TrainingRun
from infomcr_tf.training.checkpoint import Checkpoint
from infomcr_tf.training.nonfinite import NonFiniteError, NonFiniteGuard
from infomcr_tf.training.state import all_variables, build_metrics

STEPS = 3  # in an epoch
SETTINGS = {
    "dataset": "digits",
    "model": "small_cnn",
    "train_size": 60,
    "batch_size": 20,
    "epochs": 3,
    "num_sub_batches": 4,
    "seed": 3,
    "schedule": "constant",
    "alpha": 1e-2,
    "learning_rate": 1e-3,
}
MODES = {
    "plain": {"regularize": "never"},
    "penalty": {"regularize": "always"},
    "two devices": {"regularize": "never", "virtual_devices": 2},
    "penalty on two devices": {"regularize": "always", "virtual_devices": 2},
}
# What tracing makes long.
slow = pytest.mark.slow


@pytest.fixture
def spoil(monkeypatch):
    """Puts NaN into the last example of the batches of some steps, counted from 0 over all epochs.

    ReLU and pooling stop an image's NaN on its way to the loss, but not on its way to the gradient.
    """
    batches_of = TrainingRun._training_batches

    def spoil(*steps, what="images"):
        def spoiled(self, start):
            first = STEPS * start.epoch + start.step

            def change(i, batch):
                images, labels = batch
                bad = tf.reduce_any(tf.equal(i + first, steps))
                bad &= tf.range(20) == 19
                if what == "labels":
                    return images, tf.where(bad[:, None], np.float32("nan"), labels)
                return tf.where(bad[:, None, None, None], np.float32("nan"), images), labels

            return batches_of(self, start).enumerate().map(change)

        monkeypatch.setattr(TrainingRun, "_training_batches", spoiled)

    return spoil


def saved_values(run):
    with np.load(run.folder.checkpoint_path) as file:
        return [file[name] for name in file.files if name != "about"]


@pytest.mark.parametrize(
    ("mode", "where", "what"),
    [
        ("plain", "labels", "the loss"),
        pytest.param("plain", "images", "the gradient", marks=slow),
        pytest.param("penalty on two devices", "images", "the penalty", marks=slow),
    ],
)
def test_stop_names_step_images_and_checkpoint(make_run, spoil, mode, where, what):
    spoil(4, what=where)
    run = make_run(**MODES[mode], save_every="1")
    with pytest.raises(NonFiniteError) as caught:
        run.run(verbose=0)
    message = str(caught.value)
    assert message.startswith(f"{what} was not finite at step 5 (epoch 2, step 2 of 3)")
    indices = run.data.batch_indices(run.config, Position(1, 1))
    listed = ", ".join(map(str, indices[:8]))
    assert f"20 images of the training set: {listed}, ..." in message
    assert f"{run.folder.checkpoint_path}, after step 1 of epoch 2" in message
    assert all(np.isfinite(values).all() for values in saved_values(run))


def test_batch_indices_are_those_of_the_batch(make_run):
    run = make_run(regularize="never", confusion_size=20, train_size=40, augmentation="no-aug")
    indices = run.data.batch_indices(run.config, Position(2, 1))
    images, labels = next(iter(run._training_batches(Position(2, 1))))
    splits = run.data.splits
    where = {int(i): k for k, i in enumerate(run.data.indices)}
    pixels, numbers = splits.training_examples()
    chosen = [where[int(i)] for i in indices]
    np.testing.assert_array_equal(np.asarray(run.data.normalization.apply(pixels[chosen])), images)
    np.testing.assert_array_equal(numbers[chosen], np.argmax(labels, 1))


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("plain", marks=slow),
        pytest.param("penalty", marks=slow),
        pytest.param("two devices", marks=slow),
        "penalty on two devices",
    ],
)
def test_a_skipped_step_leaves_nothing_behind(make_run, spoil, tmp_path, mode):
    run = make_run(**MODES[mode], on_nonfinite="skip")
    spoil(4, 6)
    with pytest.warns(UserWarning, match=r"skipped a step: the .* at step [57] "):
        result = run.run(verbose=0)
    assert result["skipped_steps"] == 2
    with run.folder.history_path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["skipped_steps"] for row in rows] == ["0.0", "1.0", "1.0"]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())

    other = make_run(**MODES[mode], run_dir=str(tmp_path / "other"))
    model = other._model
    build_metrics(model, other._batch_spec())
    model.make_train_function()
    without = other._training_batches(START).enumerate()
    without = without.filter(lambda i, _: (i != 4) & (i != 6)).map(lambda _, batch: batch)
    iterator = iter(model.distribute_strategy.experimental_distribute_dataset(without))
    for _ in range(3 * STEPS - 2):
        model.train_function(iterator)
    for ours, theirs in zip(run._trained_weights(), other._trained_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert read(model.optimizer.iterations) == read(run._model.optimizer.iterations) == 7


@slow
def test_stopped_run_goes_on_with_skip_as_one_that_skipped_from_the_start(
    make_run, spoil, tmp_path
):
    spoil(4)
    with pytest.raises(NonFiniteError):
        make_run(regularize="always").run(verbose=0)
    skips = {"regularize": "always", "on_nonfinite": "skip"}
    late, early = make_run(**skips), make_run(**skips, run_dir=str(tmp_path / "early"))
    for run in (late, early):
        with pytest.warns(UserWarning, match="skipped a step"):
            run.run(verbose=0)
    for ours, theirs in zip(late._trained_weights(), early._trained_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_skipping_an_epoch_of_steps_in_a_row_stops(make_run, spoil, monkeypatch):
    spoil(2, 3, 4, 5)
    run = make_run(regularize="never", on_nonfinite="skip")
    with (
        pytest.warns(UserWarning, match="skipped a step"),
        pytest.raises(NonFiniteError, match=r"at step 5 .*Before it, 2 steps were skipped"),
    ):
        run.run(verbose=0)


@slow
def test_a_run_that_diverges_at_once_has_no_checkpoint(make_run):
    run = make_run(regularize="never", learning_rate=1e30, save_every="2")
    with pytest.raises(NonFiniteError, match=r"the loss was not finite at step 2 .*none yet"):
        run.run(verbose=0)
    assert not run.folder.checkpoint_path.exists()


def test_counts_survive_an_interruption(make_run, spoil, monkeypatch):
    spoil(0, 3)
    save = Checkpoint.on_train_batch_end

    def save_and_stop(self, batch, logs=None):
        save(self, batch, logs)
        if self.position == Position(1, 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "on_train_batch_end", save_and_stop)
    settings = {"regularize": "never", "on_nonfinite": "skip", "save_every": "1"}
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(KeyboardInterrupt):
        make_run(**settings).run(verbose=0)
    monkeypatch.setattr(Checkpoint, "on_train_batch_end", save)
    run = make_run(**settings)
    assert run.run(verbose=0)["skipped_steps"] == 2
    rows = run.folder.read_history()
    assert [row["skipped_steps"] for row in rows] == [1, 1, 0]


def test_dropout_seeds_and_moving_averages_are_put_back():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2),
        ]
    )
    model.compile("adam", "mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    build_metrics(model, (tf.TensorSpec([3, 4]), tf.TensorSpec([3, 2])))
    guard = NonFiniteGuard("skip", lambda *_: "", patience=9)
    guard.watch(model)
    x, y = np.ones((3, 4), np.float32), np.ones((3, 2), np.float32)

    def step(images):
        return guard.step(lambda: model.train_on_batch(images, y, return_dict=True), 0, 0)

    step(x)
    before = [variable.numpy() for variable in all_variables(model)]
    assert any(re.search("seed", variable.path) for variable in model.variables)
    with pytest.warns(UserWarning, match="skipped a step: the loss"):
        step(x * np.nan)
    for variable, value in zip(all_variables(model), before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    step(x)
    pairs = zip(all_variables(model), before, strict=True)
    assert sum(not np.array_equal(variable.numpy(), value) for variable, value in pairs) > 10
