"""Training until the cross-entropy of the training images has fallen to a stated level."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
from parameters import some

from infomcr_tf.training import CifarConfig, RunFolder, TrainingRun
from infomcr_tf.training.checkpoint import Checkpoint
from infomcr_tf.training.evaluation import evaluate, logits_function, loss_up_to

# As in conftest.py.
SMALL = {
    "dataset": "digits",
    "model": "small_cnn",
    "train_size": 60,
    "validation_size": 30,
    "batch_size": 20,
    "num_sub_batches": 4,
    "seed": 3,
}
# Of random crops, so that an epoch's running mean is not the loss of the images themselves.
TO_TARGET = {
    "target_loss": 2.2,
    "epochs": 60,
    "learning_rate": 0.1,
    "label_smoothing": 0.1,
    "weight_decay": 0.01,
    "augmentation": "1-crop-f",
    "validation_size": 0,
}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"regularize": "never"}, marks=pytest.mark.slow),
        pytest.param({"regularize": "always"}, marks=pytest.mark.slow),
        {"regularize": "never", "confusion_size": 30},
        pytest.param({"regularize": "never", "virtual_devices": 2}, marks=pytest.mark.slow),
    ],
)
def test_stops_after_the_first_epoch_at_the_level(small_config, tmp_path, changes):
    run = TrainingRun(small_config(**TO_TARGET, **changes))
    result = run.run(verbose=0)
    epochs = len(run.folder.read_history())
    assert 1 < epochs < 60
    assert result["train"]["loss"] <= TO_TARGET["target_loss"]
    before = TO_TARGET | changes | {"target_loss": None, "epochs": epochs - 1}
    before = TrainingRun(small_config(**before, schedule="constant", run_dir=str(tmp_path / "a")))
    # The recipe's rate has not dropped by then, so a constant one gives the same epochs.
    assert run.folder.read_history()[-1]["learning_rate"] == pytest.approx(0.1)
    assert before.run(verbose=0)["train"]["loss"] > TO_TARGET["target_loss"]


def test_the_confusion_set_is_reported(small_config):
    run = TrainingRun(small_config(**TO_TARGET, regularize="never", confusion_size=30))
    result = run.run(verbose=0)
    assert result["confusion"]["num_examples"] == 30
    confusion = run.data.splits.confusion
    logits = run.folder.load_model()(run.data.normalization.apply(confusion.images))
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(confusion.labels, logits)
    # Means of 30 float32 losses of about 2, summed in another order.
    assert result["confusion"]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert result["confusion"]["loss"] != pytest.approx(result["train"]["loss"], rel=0.01)


@pytest.mark.parametrize("regularize", some(["never", "always"], ["never"]))
def test_an_interrupted_run_does_not_train_beyond_the_level(small_config, monkeypatch, regularize):
    config = small_config(**TO_TARGET, regularize=regularize)
    run = TrainingRun(config)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("infomcr_tf.training.outcome.evaluate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.run(verbose=0)
    history = run.folder.read_history()
    again = TrainingRun(dataclasses.replace(config))
    assert again.run(verbose=0)["train"]["loss"] <= TO_TARGET["target_loss"]
    assert again.folder.read_history() == history


def test_the_level_must_be_positive(small_config):
    with pytest.raises(ValueError, match="`--target-loss` must be a finite number above 0"):
        small_config(target_loss=0.0)


def weights(folder):
    return folder.load_model().get_weights()


def assert_same_run(one, other):
    """The same bits, but for the place and what else was kept."""
    assert one.read_history() == other.read_history()
    assert one.read_result() == other.read_result()
    for first, second in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(first, second)


KEEPING = TO_TARGET | {"keep_at": "2.28,2.24", "regularize": "never", "confusion_size": 30}


@pytest.fixture(scope="module")
def kept(small_cnn, tmp_path_factory):
    """A run that is kept at two levels on the way."""
    path = tmp_path_factory.mktemp("kept") / "run"
    run = TrainingRun(CifarConfig(**{**SMALL, **KEEPING, "run_dir": str(path)}))
    run.run(verbose=0)
    return run


@pytest.mark.parametrize("level", some([2.28, 2.24], [2.28]))
def test_a_kept_network_is_that_of_a_training_that_stopped_there(kept, small_config, level):
    config = small_config(**KEEPING | {"keep_at": None, "target_loss": level})
    alone = TrainingRun(config)
    alone.run(verbose=0)
    folder = RunFolder.load(f"{kept.folder.path}-at-{level:g}")
    assert folder.config == dataclasses.replace(alone.config, run_dir=str(folder.path))
    assert_same_run(folder, alone.folder)
    assert TO_TARGET["target_loss"] < folder.read_result()["train"]["loss"] <= level
    assert not folder.checkpoint_path.exists()


@pytest.mark.slow
def test_levels_are_kept_without_a_target_too(kept, small_config):
    config = small_config(**KEEPING | {"target_loss": None, "epochs": 12})
    run = TrainingRun(config)
    run.run(verbose=0)
    assert len(run.folder.read_history()) == 12
    first = RunFolder.load(f"{run.folder.path}-at-2.28")
    assert_same_run(first, RunFolder.load(f"{kept.folder.path}-at-2.28"))


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("before the network is kept", marks=pytest.mark.slow),
        "while it is written",
        pytest.param("after", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_keeps_the_same_networks(kept, small_config, monkeypatch, moment):
    config = small_config(**KEEPING)
    save, write = Checkpoint.on_epoch_end, RunFolder.write_result
    first = RunFolder.load(f"{kept.folder.path}-at-2.28").read_history()
    with monkeypatch.context() as patch:

        def die(*_):
            raise KeyboardInterrupt

        def save_and_die(self, epoch, logs=None):
            save(self, epoch, logs)
            if epoch + 1 == len(first) + (moment == "after"):
                raise KeyboardInterrupt

        if moment == "while it is written":
            patch.setattr(RunFolder, "write_result", die)
        else:
            patch.setattr(Checkpoint, "on_epoch_end", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            TrainingRun(config).run(verbose=0)
    written = []

    def recorded(self, result):
        written.append(self.path)
        write(self, result)

    monkeypatch.setattr(RunFolder, "write_result", recorded)
    again = TrainingRun(config)
    again.run(verbose=0)
    assert len(written) == (2 if moment == "after" else 3)  # each network once
    assert_same_run(again.folder, kept.folder)
    for level in ("2.28", "2.24"):
        assert_same_run(
            RunFolder.load(f"{config.run_dir}-at-{level}"),
            RunFolder.load(f"{kept.folder.path}-at-{level}"),
        )


def test_a_place_that_is_taken_is_refused_before_the_training(small_config, tmp_path):
    (tmp_path / "run-at-2.24").mkdir()
    (tmp_path / "run-at-2.24" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"run-at-2\.24 is not empty and not a run folder"):
        TrainingRun(small_config(**KEEPING))


@pytest.mark.parametrize(
    "text", ["", "x", "2,", "2;1.8", "nan", "inf", "-1", "1.5", "1.0", "2,2.0"]
)
def test_unsuitable_levels_are_refused(small_config, text):
    with pytest.raises(ValueError, match="`--keep-at` must be different numbers above"):
        small_config(target_loss=1.5, keep_at=text)


class TestLossUpTo:
    """The answer is that of the full evaluation, and is given early where it can be."""

    @pytest.fixture
    def setting(self, finished):
        run, _ = finished
        batches = run.data.evaluation_batches("test", batch_size=7)
        logits_of = logits_function(run.folder.load_model())
        found = evaluate(logits_of, batches)
        return logits_of, batches, found["num_examples"], found["loss"]

    @pytest.mark.parametrize("factor", [1, 1 + 1e-9, 9])
    def test_is_the_loss_where_it_is_low_enough(self, setting, factor):
        logits_of, batches, count, loss = setting
        assert loss_up_to(loss * factor, logits_of, batches, num_examples=count) == loss

    @pytest.mark.parametrize("factor", [1 - 1e-9, 0.01])
    def test_is_infinite_above(self, setting, factor):
        logits_of, batches, count, loss = setting
        found = loss_up_to(loss * factor, logits_of, batches, num_examples=count)
        assert found == math.inf

    def test_looks_no_further_than_it_must(self, setting):
        logits_of, batches, count, loss = setting
        seen = []

        def counting(images):
            seen.append(len(images))
            return logits_of(images)

        assert loss_up_to(loss / count, counting, batches, num_examples=count) == math.inf
        assert sum(seen) < count / 10
        seen.clear()
        assert loss_up_to(loss * 2, counting, batches, num_examples=count) == loss
        assert sum(seen) == count

    def test_nan_is_not_low(self, setting):
        logits_of, batches, count, loss = setting
        found = loss_up_to(2 * loss, lambda x: logits_of(x) * np.nan, batches, num_examples=count)
        assert found == math.inf
