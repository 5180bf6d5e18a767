"""Going on within an epoch, in one process: where the kills of real processes cannot look."""

import json

import numpy as np
import pytest
import tensorflow as tf

from infomcr_tf.data.order import Position
from infomcr_tf.training.checkpoint import Checkpoint
from infomcr_tf.training.interval import Interval
from infomcr_tf.training.nonfinite import NonFiniteGuard
from infomcr_tf.training.run_folder import DamagedRunError
from infomcr_tf.training.tensorboard import TensorBoard

SETTINGS = {
    "dataset": "digits",
    "model": "small_cnn",
    "train_size": 60,
    "batch_size": 10,
    "epochs": 2,
    "num_sub_batches": 2,
    "seed": 3,
    "regularize": "never",
    "augmentation": "1-crop-f",
}


@pytest.fixture
def steps(monkeypatch):
    """The steps that are made, and a way to stop after one of them."""
    made, stop_after = [], []
    step = NonFiniteGuard.step

    def recorded(self, make, epoch, number):
        if made and made[-1] in stop_after:
            stop_after.remove(made[-1])
            raise KeyboardInterrupt
        logs = step(self, make, epoch, number)
        made.append((epoch, number))
        return logs

    monkeypatch.setattr(NonFiniteGuard, "step", recorded)
    return made, stop_after


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"model": "resnet20"},  # BatchNorm: the replicas' moving averages differ within an epoch
        {"regularize": "always", "alpha": 1e-2},
    ],
    ids=["BatchNorm", "penalty"],
)
def test_replicas_go_on_within_an_epoch(make_run, steps, tmp_path, changes):
    changes = changes | {"virtual_devices": 2, "save_every": "2"}
    whole = make_run(**changes, run_dir=str(tmp_path / "whole"))
    whole.run(verbose=0)
    made, stop_after = steps
    made.clear()
    stop_after.append((0, 4))
    with pytest.raises(KeyboardInterrupt):
        make_run(**changes).run(verbose=0)
    parts = make_run(**changes)
    parts.run(verbose=0)
    # Saved after every second step; one step is repeated.
    assert made[:7] == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 4), (0, 5)]
    assert len(made) == 13
    for name in ("history.csv", "result.json"):
        assert (parts.folder.path / name).read_text() == (whole.folder.path / name).read_text()
    for ours, theirs in zip(parts._trained_weights(), whole._trained_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_checkpoints_are_as_far_apart_as_asked_also_without_a_log(make_run, steps, monkeypatch):
    write, saved = Checkpoint._write, []

    def recorded(self, folder):
        write(self, folder)
        saved.append(self.position)

    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(Checkpoint, "_write", recorded)
    # TensorBoard's disk is full: that does not end the training.
    monkeypatch.setattr(TensorBoard, "_log_epoch_metrics", full)
    with pytest.warns(UserWarning, match=r"TensorBoard.*No space left.*continues without it"):
        make_run(save_every="4").run(verbose=0)
    assert saved == [Position(0, 4), Position(1, 0), Position(1, 4), Position(2, 0)]


@pytest.mark.parametrize("text", ["", "s", "0", "-1", "5 s", "5m", "1.5", "9" * 10, "٣"])
def test_unsuitable_intervals_are_refused(text):
    with pytest.raises(ValueError, match="`--save-every` must be a number of steps"):
        Interval(text)


def test_an_interval_of_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    interval = Interval("3s")
    due = []
    for _ in range(4):
        now[0] += 1
        due.append(interval.step())
    assert due == [False, False, True, True]
    interval.begin()
    assert not interval.step()


def test_a_checkpoint_that_cannot_be_used_is_named(make_run):
    run = make_run()
    for about in ("{}", "[]", "3", json.dumps({"position": {"epoch": 0}, "variables": []})):
        np.savez(run.folder.checkpoint_path, about=np.array(about))
        with pytest.raises(DamagedRunError, match=r"checkpoint\.npz is damaged .*Delete it"):
            run.run(verbose=0)
    content = {
        "position": {"epoch": 0, "step": 1},
        "variables": [["float32", 3]],
        "rows": [],
        "callbacks": {},
    }
    np.savez(run.folder.checkpoint_path, about=np.array(json.dumps(content)), v0=np.zeros(3))
    with pytest.raises(DamagedRunError, match=r"checkpoint\.npz is of another model"):
        run.run(verbose=0)
