"""Training until the cross-entropy of the training images has fallen to a stated level."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from infomcr_tf.training import TrainingRun
from infomcr_tf.training.evaluation import evaluate, logits_function, loss_is_at_most

# Of random crops, so that an epoch's running mean is not the loss of the images themselves.
TO_TARGET = {
    "target_loss": 1.5, "epochs": 60, "learning_rate": 0.05, "label_smoothing": 0.1,
    "weight_decay": 0.01, "augmentation": "1-crop-f", "validation_size": 0,
}  # fmt: skip


def trained_loss(result):
    """Mean over the training images and the confusion set."""
    parts = [result[part] for part in ("train", "confusion") if part in result]
    return np.average([p["loss"] for p in parts], weights=[p["num_examples"] for p in parts])


@pytest.mark.parametrize(
    "changes",
    [
        {"regularize": "never"},
        {"regularize": "always"},
        {"regularize": "never", "confusion_size": 30},
        {"regularize": "never", "virtual_devices": 2},
    ],
)
def test_stops_after_the_first_epoch_at_the_level(small_config, tmp_path, changes):
    run = TrainingRun(small_config(**TO_TARGET, **changes))
    result = run.run(verbose=0)
    epochs = len(run.folder.read_history())
    assert 1 < epochs < 60
    assert trained_loss(result) <= 1.5
    before = TO_TARGET | changes | {"target_loss": None, "epochs": epochs - 1}
    before = TrainingRun(small_config(**before, schedule="constant", run_dir=str(tmp_path / "a")))
    # The recipe's rate has not dropped by then, so a constant one gives the same epochs.
    assert run.folder.read_history()[-1]["learning_rate"] == pytest.approx(0.05)
    assert trained_loss(before.run(verbose=0)) > 1.5


def test_the_confusion_set_is_reported_and_counts(small_config):
    run = TrainingRun(small_config(**TO_TARGET, regularize="never", confusion_size=30))
    result = run.run(verbose=0)
    assert result["confusion"]["num_examples"] == 30
    confusion = run.data.splits.confusion
    logits = run.folder.load_model()(run.data.normalization.apply(confusion.images))
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(confusion.labels, logits)
    # Means of 30 float32 losses of about 2, summed in another order.
    assert result["confusion"]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert result["confusion"]["loss"] != pytest.approx(result["train"]["loss"], rel=0.01)


@pytest.mark.parametrize("regularize", ["never", "always"])
def test_an_interrupted_run_does_not_train_beyond_the_level(small_config, monkeypatch, regularize):
    config = small_config(**TO_TARGET, regularize=regularize)
    run = TrainingRun(config)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("infomcr_tf.training.run.evaluate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.run(verbose=0)
    history = run.folder.read_history()
    again = TrainingRun(dataclasses.replace(config))
    assert trained_loss(again.run(verbose=0)) <= 1.5
    assert again.folder.read_history() == history


def test_the_level_must_be_positive(small_config):
    with pytest.raises(ValueError, match="`--target-loss` should be a finite number > 0"):
        small_config(target_loss=0.0)


class TestLossIsAtMost:
    """The question agrees with the full evaluation, and is answered early where it can be."""

    @pytest.fixture
    def setting(self, finished):
        run, _ = finished
        parts = [run.data.evaluation_batches(part, batch_size=7) for part in ("train", "test")]
        logits_of = logits_function(run.folder.load_model())
        found = [evaluate(logits_of, part) for part in parts]
        count = sum(part["num_examples"] for part in found)
        loss = sum(part["loss"] * part["num_examples"] for part in found) / count
        return logits_of, parts, count, loss

    # The sums are of float64 values that differ by their order.
    @pytest.mark.parametrize(
        ("factor", "expected"), [(1 - 1e-9, False), (1 + 1e-9, True), (0.01, False), (9, True)]
    )
    def test_agrees_with_evaluate(self, setting, factor, expected):
        logits_of, parts, count, loss = setting
        assert loss_is_at_most(loss * factor, logits_of, parts, num_examples=count) == expected

    def test_looks_no_further_than_it_must(self, setting):
        logits_of, parts, count, loss = setting
        seen = []

        def counting(images):
            seen.append(len(images))
            return logits_of(images)

        assert not loss_is_at_most(loss / count, counting, parts, num_examples=count)
        assert sum(seen) < count / 10
        seen.clear()
        assert loss_is_at_most(loss * 2, counting, parts, num_examples=count)
        assert sum(seen) == count

    def test_nan_is_not_low(self, setting):
        logits_of, parts, count, loss = setting
        nan = loss_is_at_most(2 * loss, lambda x: logits_of(x) * np.nan, parts, num_examples=count)
        assert not nan
