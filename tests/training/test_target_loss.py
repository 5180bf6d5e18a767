"""Training until the cross-entropy has fallen to a stated level."""

import csv
import dataclasses

import pytest

from infomcr_tf.training import TrainingRun


def history(run):
    with run.folder.history_path.open() as file:
        return [float(row["cross_entropy"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("regularize", ["never", "always"])
def test_stops_after_the_first_epoch_at_the_level(small_config, regularize):
    config = small_config(
        target_loss=1.5, epochs=60, learning_rate=0.05, regularize=regularize, label_smoothing=0.1
    )
    run = TrainingRun(config)
    run.run(verbose=0)
    losses = history(run)
    assert len(losses) < 60
    assert losses[-1] <= 1.5
    assert all(loss > 1.5 for loss in losses[:-1])


def test_the_level_is_of_the_cross_entropy_alone(small_config):
    """With a vanishing learning rate an epoch's mean is that of the final evaluation."""
    run = TrainingRun(
        small_config(
            target_loss=1e-3,
            epochs=1,
            learning_rate=1e-20,
            weight_decay=0.5,
            label_smoothing=0.2,
            augmentation="no-aug",
            regularize="never",
        )
    )
    result = run.run(verbose=0)
    # Float32 means of 60 losses of about 2.
    assert history(run) == [pytest.approx(result["train"]["loss"], rel=1e-5)]


def test_an_interrupted_run_does_not_train_beyond_the_level(small_config, monkeypatch):
    config = small_config(
        target_loss=1.5, epochs=60, learning_rate=0.05, regularize="never", validation_size=0
    )
    run = TrainingRun(config)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("infomcr_tf.training.train.evaluate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.run(verbose=0)
    losses = history(run)
    again = TrainingRun(dataclasses.replace(config))
    again.run(verbose=0)
    assert history(again) == losses


def test_the_level_must_be_positive(small_config):
    with pytest.raises(ValueError, match="`--target-loss` should be a finite number > 0"):
        small_config(target_loss=0.0)
