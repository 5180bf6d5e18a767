"""The command line of train_cifar.py: its flags, and what it says when it is used wrongly."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
from unittest import mock

import keras
import numpy as np
import pytest

import train_cifar
from infomcr_tf.command_line.options import flag
from infomcr_tf.data.order import START
from infomcr_tf.training import CifarConfig, TrainingRun

DIGITS = ["--dataset", "digits", "--model", "cnn"]

# A value other than the default for each flag.
VALUES = {
    "dataset": "digits",
    "data_dir": "/",
    "train_size": 70,
    "validation_size": 11,
    "confusion_size": 13,
    "augmentation": "flip-only",
    "normalization": "computed",
    "model": "cnn",
    "epochs": 5,
    "batch_size": 12,
    "learning_rate": 0.25,
    "schedule": "cosine",
    "patience": 3,
    "weight_decay": 0.125,
    "momentum": 0.75,
    "nesterov": False,
    "label_smoothing": 0.0625,
    "regularize": "011",
    "alpha": 0.5,
    "beta": 2.5,
    "num_sub_batches": 6,
    "data_term": "batch",
    "seed": 17,
    "gpus": 0,
    "virtual_devices": 2,
    "estimator": "hessian_vector",
    "allow_tf32": True,
    "mixed_precision": True,
    "jit_compile": True,
    "target_loss": 0.5,
    "keep_at": "1.0,0.75",
    "nested_sets": False,
    "stop": "zero-error",
    "save_every": "7",
    "on_nonfinite": "skip",
    "deterministic": False,
}


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Runs `train_cifar.main` up to the training and returns the run."""

    def start(**values):
        runs = []

        def run(self, **_):
            runs.append(self)
            return {"train": {"loss": 0.0, "error": 0.0}, "test": {"loss": 0.0, "error": 0.0}}

        monkeypatch.setattr(TrainingRun, "run", run)
        values.setdefault("run_dir", str(tmp_path / "run"))
        flags = []
        for name, value in values.items():
            if isinstance(value, bool):
                flags.append(flag(name) if value else flag(name).replace("--", "--no-", 1))
            else:
                flags += [flag(name), str(value)]
        assert train_cifar.main(flags) == 0
        return runs[0]

    return start


def test_every_flag_reaches_the_configuration(started):
    names = {field.name for field in dataclasses.fields(CifarConfig)}
    assert names == set(VALUES) | {"run_dir"}
    values = {name: value for name, value in VALUES.items() if name != "virtual_devices"}
    config = started(**values).config
    assert {name: getattr(config, name) for name in values} == values


def test_every_option_reaches_the_training(started):
    others = ("gpus", "jit_compile")  # jit_compile: on one device
    run = started(**{name: value for name, value in VALUES.items() if name not in others})
    model, optimizer = run._model, run._model.optimizer
    assert run.strategy.num_replicas_in_sync == 2
    assert (model.perturbation.size, keras.ops.convert_to_numpy(model.beta)) == (0.5, 2.5)
    assert (model.num_sub_batches, model.data_term) == (6, "batch")
    assert (model.perturbation.estimator, model.allow_tf32) == ("hessian_vector", True)
    assert model.model.layers[1].compute_dtype == "bfloat16"
    assert model.jit_compile is False
    assert keras.ops.convert_to_numpy(optimizer.learning_rate) == 0.25
    assert (optimizer.momentum, optimizer.nesterov) == (0.75, False)
    assert model.loss.label_smoothing == 0.0625
    assert model.model.layers[1].kernel_regularizer.l2 == pytest.approx(0.125 / 2)
    images, labels = next(iter(run._training_batches(START)))
    assert images.shape == (12, 8, 8, 1)
    assert labels.shape == (12, 10)
    assert run._steps_per_epoch == (70 + 13) // 12
    assert [len(part) for part in (run.data.splits.train, run.data.splits.validation)] == [70, 11]
    kinds = [type(callback).__name__ for callback in run._callbacks()]
    assert kinds == [
        "AverageReplicas",
        "Validation",
        "LearningRateScheduler",
        "BetaSchedule",
        "TensorBoard",
    ]
    assert run._callbacks()[3].schedule == "011"


def test_seed_and_augmentation_reach_the_batches(started, tmp_path):
    def first_batch(i, **values):
        run = started(
            dataset="digits", model="cnn", batch_size=16, run_dir=str(tmp_path / str(i)), **values
        )
        images, _ = next(iter(run._training_batches(START)))
        return np.asarray(images), run._model.model.get_weights()[0]

    base, weights = first_batch(0, seed=1)
    same, same_weights = first_batch(1, seed=1)
    flipped, _ = first_batch(2, seed=1, augmentation="flip-only")
    other, other_weights = first_batch(3, seed=2)
    np.testing.assert_array_equal(base, same)
    np.testing.assert_array_equal(weights, same_weights)
    assert not np.array_equal(base, flipped)
    assert not np.array_equal(base, other)
    assert not np.array_equal(weights, other_weights)


def test_plateau_uses_the_patience(started):
    run = started(dataset="digits", model="cnn", schedule="plateau", patience=3)
    plateau = run._callbacks()[1]
    assert (plateau.patience, plateau.factor, plateau.monitor) == (3, 0.1, "cross_entropy")


def test_help_explains_every_flag_in_groups(capsys):
    with pytest.raises(SystemExit) as caught:
        train_cifar.main(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for field in dataclasses.fields(CifarConfig):
        assert flag(field.name) in text
        assert field.metadata["group"] in text


MISTAKES = [
    (["--dataset", "digts"], "Did you mean 'digits'"),
    (["--modle", "cnn"], "Did you mean '--model'"),
    (["--model", "resnet21"], "Did you mean 'resnet20'"),
    (["--epochs", "many"], "--epochs: invalid int value: 'many'"),
    (["--alpha", "0"], "--alpha.*above 0"),
    (["--alpha", "inf"], "--alpha.*finite"),
    (["--num-sub-batches", "0"], "--num-sub-batches.*>= 1"),
    ([*DIGITS, "--batch-size", "5"], "--num-sub-batches.*=8 for a batch of 5"),
    ([*DIGITS, "--batch-size", "5000"], "at most the number of images, 1437"),
    ([*DIGITS, "--train-size", "1500"], "--train-size.*images, 1437"),
    ([*DIGITS, "--train-size", "1400", "--confusion-size", "100"], "--train-size.*images, 1437"),
    ([*DIGITS, "--gpus", "64"], "--gpus.*Received: 64"),
    ([*DIGITS, "--virtual-devices", "64"], "--virtual-devices.*Received: 64"),
    ([*DIGITS, "--virtual-devices", "3"], "divisible"),
    (["--dataset", "cifar10", "--data-dir", "no/such/folder"], "existing folder"),
    ([*DIGITS, "--run-dir", "/dev/null/run"], "/dev/null"),
    ([*DIGITS, "--normalization", "cifar"], "channel"),
]


@pytest.mark.parametrize(("flags", "message"), MISTAKES, ids=[" ".join(f) for f, _ in MISTAKES])
def test_mistakes_get_one_line_and_status_2_before_any_training(
    flags, message, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    training = mock.Mock(side_effect=AssertionError("the training started"))
    monkeypatch.setattr("infomcr_tf.training.run.train", training)
    with pytest.raises(SystemExit) as caught:
        train_cifar.main(flags)
    training.assert_not_called()
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not list(tmp_path.rglob("config.json"))


def test_without_mistakes_the_training_begins(monkeypatch, tmp_path):
    """So what stands in its place above stands at the right one."""
    training = mock.Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr("infomcr_tf.training.run.train", training)
    assert train_cifar.main([*DIGITS, "--run-dir", str(tmp_path / "run")]) == 130
    training.assert_called_once()


@pytest.mark.slow
def test_as_a_real_process(root_dir, tmp_path):
    """Standard error holds the one line and nothing of TensorFlow's."""
    command = [sys.executable, str(root_dir / "train_cifar.py"), *DIGITS, "--alpha", "-1"]
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert done.stdout == ""
    expected = "`--alpha` must be a finite number above 0. Received: --alpha=-1.0"
    assert done.stderr == f"train_cifar.py: error: {expected}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_has_the_conventional_status(number, status, capsys, monkeypatch, tmp_path):
    before = signal.getsignal(number)
    monkeypatch.setattr(TrainingRun, "run", lambda *_, **__: signal.raise_signal(number))
    assert train_cifar.main([*DIGITS, "--run-dir", str(tmp_path / "run")]) == status
    assert signal.getsignal(number) == before
    assert "give the same command again to resume" in capsys.readouterr().out
