import csv
import dataclasses
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from infomcr_tf import data, models
from infomcr_tf.training import RunFolder, TrainingRun, load_model
from infomcr_tf.training.checkpoint import Checkpoint
from infomcr_tf.training.run_folder import DamagedRunError


def _history(run):
    with run.folder.history_path.open() as file:
        return list(csv.DictReader(file))


def test_run_folder_holds_everything(finished):
    run, _ = finished
    names = {path.name for path in run.folder.path.iterdir()}
    assert names == {"config.json", "history.csv", "logs", "model.keras", "result.json"}
    assert list((run.folder.path / "logs").rglob("events.*"))
    about = json.loads((run.folder.path / "config.json").read_text())
    assert about["steps_per_epoch"] == 3
    assert about["versions"]["tensorflow"]
    assert about["num_parameters"] == run.folder.load_model().count_params()


def test_history_has_every_epoch_and_shows_when_the_penalty_is_on(finished):
    run, _ = finished
    rows = _history(run)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [float(row["beta"]) for row in rows] == [0, 0, 10, 10]
    rates = [float(row["learning_rate"]) for row in rows]
    np.testing.assert_allclose(rates, [1e-2, 1e-2, 1e-3, 1e-4], rtol=1e-6)  # float32
    assert [float(row["fisher_penalty"]) > 0 for row in rows] == [False, False, True, True]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(rows[0])


def test_result_is_measured_on_unaugmented_images(small_config, tmp_path):
    # Augmentation of a kind that changes every image: results that used it would differ.
    run = TrainingRun(small_config(augmentation="4-crop-f", regularize="never", epochs=2))
    result = run.run(verbose=0)
    splits = data.split_dataset(
        data.load_dataset("digits"), train_size=60, validation_size=30, seed=3
    )
    model = load_model(run.folder.model_path)
    for part in ("train", "validation", "test"):
        examples = getattr(splits, part)
        pixels = examples.images.astype(np.float64)
        mean, std = splits.train.images.mean(), splits.train.images.std()
        logits = model.predict(((pixels - mean) / std).astype(np.float32), verbose=0)
        losses = -log_softmax(logits.astype(np.float64), axis=1)[
            np.arange(len(logits)), examples.labels
        ]
        # The images agree up to float32 rounding.
        assert result[part]["loss"] == pytest.approx(losses.mean(), rel=1e-4)
        assert result[part]["error"] == np.mean(logits.argmax(1) != examples.labels)
        assert result[part]["num_examples"] == len(examples)


@pytest.mark.slow
def test_saved_model_loads_without_this_package(finished):
    run, _ = finished
    code = (
        "import sys, keras\n"
        f"model = keras.saving.load_model({str(run.folder.model_path)!r})\n"
        "assert 'infomcr_tf' not in sys.modules\n"
        "assert not model.compiled and model.output_shape == (None, 10)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_complete_run_is_not_repeated(finished):
    run, result = finished
    before = run.folder.model_path.stat().st_mtime_ns
    again = TrainingRun(run.config).run(verbose=0)
    assert again == run.folder.read_result()
    assert again["test"] == result["test"]
    assert run.folder.model_path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"augmentation": "1-crop-f"}, marks=pytest.mark.slow),
        # So small a learning rate that every epoch is a plateau: the schedule has much to remember.
        {"schedule": "plateau", "patience": 1, "learning_rate": 1e-9},
    ],
    ids=["recipe", "plateau"],
)
def test_interrupted_run_ends_as_the_uninterrupted_one(
    small_config, monkeypatch, tmp_path, changes
):
    whole = TrainingRun(small_config(**changes, run_dir=str(tmp_path / "whole")))
    whole.run(verbose=0)
    config = small_config(**changes, run_dir=str(tmp_path / "parts"))
    save = Checkpoint.on_epoch_end

    def save_and_stop(self, epoch, logs=None):
        save(self, epoch, logs)
        if epoch in (0, 2):  # before the penalty is on, and after
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "on_epoch_end", save_and_stop)
    for epochs_done in (1, 3):
        run = TrainingRun(config)
        with pytest.raises(KeyboardInterrupt):
            run.run(verbose=0)
        assert len(_history(run)) == epochs_done
    parts = TrainingRun(config)
    parts.run(verbose=0)
    assert parts.folder.read_result() == whole.folder.read_result()
    assert _history(parts) == _history(whole)
    assert float(_history(whole)[-1]["beta"]) == 10
    weights = [run.folder.load_model().get_weights() for run in (parts, whole)]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_same_seed_gives_the_same_run_and_another_seed_another(finished, small_config):
    _, result = finished
    assert TrainingRun(small_config()).run(verbose=0) == result
    other = TrainingRun(small_config(seed=4, run_dir=small_config().run_dir + "4")).run(verbose=0)
    assert other["train"]["loss"] != result["train"]["loss"]


def test_never_is_plain_keras(small_config):
    run = TrainingRun(small_config(regularize="never", schedule="constant", epochs=2))
    run.run(verbose=0)
    config, splits = run.config, run.data.splits
    build = models.ARCHITECTURES[config.model]
    model = build((8, 8, 1), 10, weight_decay=config.weight_decay, seed=config.seed)
    model.compile(
        keras.optimizers.SGD(config.learning_rate, momentum=0.9, nesterov=True),
        keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    batches = data.training_dataset(
        splits.train.images,
        splits.train.labels,
        batch_size=20,
        augmentation="no-aug",
        normalization=run.data.normalization,
        seed=config.seed,
    )
    batches = batches.map(lambda x, y: (x, tf.one_hot(y, 10)))
    model.fit(batches, steps_per_epoch=3, epochs=2, verbose=0, shuffle=False)
    for one, other in zip(model.get_weights(), run.folder.load_model().get_weights(), strict=True):
        # XLA is off in both; Keras' own default differs from ours only in that.
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_several_devices_see_the_same_batches(small_config, tmp_path):
    # At alpha = 1e-4 float32 leaves the finite difference three digits (eps / alpha), and beta = 10
    # turns the order of sums into other weights within six steps; at 1e-2 it leaves five.
    settings = {"epochs": 2, "regularize": "always", "alpha": 1e-2}
    one = TrainingRun(small_config(**settings, run_dir=str(tmp_path / "1")))
    two = TrainingRun(small_config(**settings, virtual_devices=2, run_dir=str(tmp_path / "2")))
    results = [run.run(verbose=0) for run in (one, two)]
    assert results[1]["train"]["loss"] == pytest.approx(results[0]["train"]["loss"], rel=1e-5)
    weights = [run.folder.load_model().get_weights() for run in (one, two)]
    for first, second in zip(*weights, strict=True):
        np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-5 * np.abs(first).max())
    assert two.folder.config.virtual_devices == 2


@pytest.mark.slow
@pytest.mark.parametrize("regularize", ["never", "always"])
def test_xla_gives_the_same_weights(small_config, tmp_path, regularize):
    settings = {"epochs": 2, "regularize": regularize, "alpha": 1e-2, "learning_rate": 1e-3}
    runs = [
        TrainingRun(small_config(**settings, jit_compile=jit, run_dir=str(tmp_path / str(jit))))
        for jit in (False, True)
    ]
    for run in runs:
        run.run(verbose=0)
    weights = [run.folder.load_model().get_weights() for run in runs]
    for first, second in zip(*weights, strict=True):
        # float32 sums in another order, over 6 steps
        np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-5 * np.abs(first).max())


@pytest.mark.slow
@pytest.mark.parametrize("regularize", ["never", "always"])
def test_mixed_precision_trains_float32_weights(small_config, tmp_path, regularize):
    settings = {"epochs": 2, "regularize": regularize, "learning_rate": 1e-3}
    settings |= {"estimator": "hessian_vector"}
    runs = [
        TrainingRun(small_config(**settings, mixed_precision=m, run_dir=str(tmp_path / str(m))))
        for m in (False, True)
    ]
    results = [run.run(verbose=0) for run in runs]
    assert all(w.dtype == np.float32 for w in runs[1].folder.load_model().get_weights())
    assert results[1]["train"] != results[0]["train"]
    # bfloat16 keeps 8 bits
    assert results[1]["train"]["loss"] == pytest.approx(results[0]["train"]["loss"], rel=2**-8)


class TestBadFolders:
    def test_another_run_is_named(self, finished, small_config):
        run, _ = finished
        config = small_config(run_dir=str(run.folder.path), alpha=1e-3)
        with pytest.raises(ValueError, match=r"holds another run: its alpha is 0.0001, not 0.001"):
            TrainingRun(config)

    def test_foreign_files_are_not_touched(self, small_config, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.tex").write_text("mine")
        with pytest.raises(ValueError, match="not empty and not a run folder"):
            TrainingRun(small_config())
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]

    def test_place_that_cannot_be_written(self, small_config, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match="which is a file"):
            TrainingRun(small_config(run_dir=str(tmp_path / "file")))
        with pytest.raises(OSError, match="file"):
            TrainingRun(small_config(run_dir=str(tmp_path / "file" / "run")))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "damaged"),
            ("[]", "not a infomcr_tf run file"),
            ('{"kind": "infomcr_tf run", "version": 99}', "version 99"),
            ('{"kind": "infomcr_tf run", "version": 1}', "damaged"),
            ('{"kind": "infomcr_tf run", "version": 1, "config": {"epochs": "x"}}', "damaged"),
        ],
    )
    def test_damaged_config(self, tmp_path, text, message):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            RunFolder.load(tmp_path)

    def test_missing_parts(self, tmp_path, small_config):
        with pytest.raises(FileNotFoundError, match="not a run folder"):
            RunFolder.load(tmp_path / "nowhere")
        folder = TrainingRun(small_config()).folder
        with pytest.raises(FileNotFoundError, match="not complete"):
            folder.read_result()
        with pytest.raises(FileNotFoundError, match="no model file"):
            folder.load_model()
        folder.model_path.write_bytes(b"PK\x03\x04 not a model")
        with pytest.raises(ValueError, match="not a Keras model file"):
            folder.load_model()

    @pytest.mark.parametrize("text", ["{}", '{"train": {}}', '{"train": {"loss": "x"}}', "\xff"])
    def test_damaged_result(self, finished, tmp_path, text):
        run, _ = finished
        shutil.copytree(run.folder.path, tmp_path / "run")
        header = '{"kind": "infomcr_tf result", "version": 1, '
        content = text.replace("{", header, 1).replace(", }", "}").encode("latin-1")
        (tmp_path / "run" / "result.json").write_bytes(content)
        config = dataclasses.replace(run.config, run_dir=str(tmp_path / "run"))
        with pytest.raises(DamagedRunError, match=r"result\.json is damaged .*Remove it"):
            TrainingRun(config).run(verbose=0)

    def test_damaged_checkpoint(self, small_config):
        run = TrainingRun(small_config())
        run.folder.checkpoint_path.write_bytes(b"PK\x03\x04 not an archive")
        with pytest.raises(ValueError, match=r"damaged.*Delete it"):
            run.run(verbose=0)
