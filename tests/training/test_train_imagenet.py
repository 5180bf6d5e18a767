"""train_imagenet.py: from tar files to a run folder that can be characterised."""

import csv
import dataclasses
import json
import re
import shutil

import imagenet_files
import numpy as np
import pytest
import tensorflow as tf

import characterize
import train_imagenet
from infomcr_tf.command_line.options import flag
from infomcr_tf.data import imagenet
from infomcr_tf.data.order import START
from infomcr_tf.training import ImageNetConfig, RunFolder, TrainingRun, load_data

SMALL = [
    "--model",
    "cnn",
    "--image-size",
    "20",
    "--crop-size",
    "16",
    "--batch-size",
    "4",
    "--num-sub-batches",
    "4",
    "--learning-rate",
    "0.001",
    "--beta",
    "0.1",
    "--seed",
    "2",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the tar files, in which data sets and caches are made."""
    folder = tmp_path_factory.mktemp("imagenet")
    (folder / "tars").mkdir()
    (folder / "tfds").mkdir()
    imagenet_files.write_tars(folder / "tars")
    return folder


@pytest.fixture(scope="module")
def trained(place):
    """A finished run on two devices, with the penalty after the first drop."""
    run_dir = place / "run"
    data = ["--data-dir", str(place / "tfds"), "--manual-dir", str(place / "tars")]
    flags = [*data, *SMALL, "--virtual-devices", "2", "--epochs", "3", "--run-dir", str(run_dir)]
    assert train_imagenet.main(flags) == 0
    return run_dir, flags


def test_from_tar_files_to_a_run_folder(trained, place, capsys):
    run_dir, flags = trained
    names = {path.name for path in run_dir.iterdir()}
    assert names == {"config.json", "history.csv", "logs", "model.keras", "result.json"}
    with (run_dir / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["beta"]) for row in rows] == pytest.approx([0, 0, 0.1])
    assert {"top5_accuracy", "accuracy", "loss", "fisher_penalty"} <= set(rows[0])
    result = json.loads((run_dir / "result.json").read_text())
    assert result["train"]["num_examples"] == 15
    assert result["test"]["num_examples"] == 7
    assert 0 <= result["test"]["top5_error"] <= result["test"]["error"] <= 1
    assert json.loads((run_dir / "config.json").read_text())["data"] == "imagenet"
    folder = RunFolder.load(run_dir)
    assert isinstance(folder.config, ImageNetConfig)
    assert folder.load_model().output_shape == (None, 1000)
    assert (place / "tfds" / "resized").is_dir()
    # The same command again: nothing is trained; the result is printed, with the gap.
    assert train_imagenet.main(flags) == 0
    printed = capsys.readouterr().out
    gap = 100 * (result["test"]["top5_error"] - result["train"]["top5_error"])
    assert re.search(rf"gap .* top5 error {gap:.2f} %", printed), printed


def test_result_is_measured_on_centre_crops(trained, place):
    run_dir, _ = trained
    folder = RunFolder.load(run_dir)
    source = imagenet.open_source(data_dir=place / "tfds")
    parts = imagenet.resize_once(source, place / "tfds" / "resized", image_size=20)
    model = folder.load_model()
    for part in ("train", "test"):
        jpegs, labels = parts[part].read(tf.range(len(parts[part])))
        images = np.stack([tf.io.decode_jpeg(jpeg).numpy()[2:18, 2:18] for jpeg in jpegs])
        x = (images / 255 - [0.485, 0.456, 0.406]).astype(np.float32)
        order = np.argsort(-model.predict(x, verbose=0), axis=1)
        hits = order == labels.numpy()[:, np.newaxis]
        result = folder.read_result()[part]
        assert result["error"] == pytest.approx(1 - hits[:, 0].mean())
        assert result["top5_error"] == pytest.approx(1 - hits[:, :5].any(axis=1).mean())


def test_can_be_characterised(trained, tmp_path):
    run_dir, _ = trained
    flags = ["--num-trials", "2", "--num-samples", "4", "--metrics", "gamma_hat,trace"]
    flags += ["--num-images", "9", "--out", str(tmp_path)]
    assert characterize.main([str(run_dir), *flags]) == 0
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["minima"][0]["report"]["num_examples"] == 9


def test_images_to_measure_on_are_the_runs_own_centre_crops(trained, place):
    config = RunFolder.load(trained[0]).config
    run_data = load_data(dataclasses.replace(config, train_size=11))
    everything, some = run_data.training_images(), run_data.training_images(5)
    assert len(everything) == 11
    assert len(some) == 5
    assert set(some.indices) <= set(everything.indices)
    assert everything.images.shape == (11, 16, 16, 3)
    whole = load_data(config).training_images()
    np.testing.assert_array_equal(everything.images, whole.images[everything.indices])
    np.testing.assert_array_equal(everything.labels, whole.labels[everything.indices])
    with pytest.raises(ValueError, match=r"--num-images.*at most.*11. Received: 12"):
        run_data.training_images(12)


@pytest.mark.slow
def test_one_device_gives_the_same_run(trained, tmp_path):
    run_dir, flags = trained
    flags = [*flags, "--run-dir", str(tmp_path / "one")]
    flags[flags.index("--virtual-devices") : flags.index("--virtual-devices") + 2] = []
    assert train_imagenet.main(flags) == 0
    one, two = (RunFolder.load(path) for path in (tmp_path / "one", run_dir))
    weights = zip(one.load_model().get_weights(), two.load_model().get_weights(), strict=True)
    for first, second in weights:
        # Rounding of the penalty's gradient, eps beta / alpha = 1e-4 of g, in 9 small steps.
        np.testing.assert_allclose(second, first, rtol=0, atol=1e-5 * np.abs(first).max())
    for part in ("train", "test"):
        assert two.read_result()[part] == pytest.approx(one.read_result()[part], rel=1e-4)


def test_image_folder(tmp_path):
    imagenet_files.write_folder(tmp_path / "images")
    flags = ["--image-folder", str(tmp_path / "images"), "--cache-dir", str(tmp_path / "cache")]
    flags += [*SMALL, "--regularize", "never", "--epochs", "1", "--validation-size", "3"]
    assert train_imagenet.main([*flags, "--run-dir", str(tmp_path / "run")]) == 0
    folder = RunFolder.load(tmp_path / "run")
    assert folder.load_model().output_shape == (None, 3)
    counts = {p: folder.read_result()[p]["num_examples"] for p in ("train", "validation", "test")}
    assert counts == {"train": 12, "validation": 3, "test": 15}


def test_defaults_are_appendix_e():
    config = ImageNetConfig().resolve(1_281_167)
    assert (config.model, config.batch_size, config.epochs) == ("wrn18_1_5", 128, 90)
    assert (config.image_size, config.crop_size, config.augmentation) == (128, 114, "standard")
    assert (config.normalization, config.learning_rate, config.weight_decay) == ("mean", 0.1, 1e-4)
    assert (config.alpha, config.num_sub_batches, config.regularize) == (
        1e-4,
        8,
        "after-first-drop",
    )


@pytest.mark.slow
def test_real_images_at_their_real_size(shared_dir, tmp_path, monkeypatch):
    """The small ImageNet through WRN-18-1.5's own input, up to the first step."""
    (tmp_path / "tfds").mkdir()
    config = ImageNetConfig(
        data_dir=str(tmp_path / "tfds"),
        manual_dir=str(shared_dir / "data" / "imagenet-mini"),
        run_dir=str(tmp_path / "run"),
    )
    run = TrainingRun(config)
    assert run.folder.about["num_parameters"] == 25_875_816
    assert run._steps_per_epoch == 1280 // 128
    images, labels = next(iter(run._training_batches(START)))
    assert (images.shape, labels.shape) == ((128, 114, 114, 3), (128, 1000))
    # In [0, 1] before the mean is subtracted, jittered by up to 1.4 ** 3.
    assert -1.5 < float(tf.reduce_min(images)) < -0.2
    assert abs(float(tf.reduce_mean(images))) < 0.15


def _mistakes(place, tmp_path):
    partial = tmp_path / "partial"
    partial.mkdir()
    shutil.copy(place / "tars" / "ILSVRC2012_img_val.tar", partial)
    empty = tmp_path / "empty"
    empty.mkdir()
    data = ["--data-dir", str(empty)]
    tars = [*data, "--manual-dir", str(place / "tars")]
    return [
        (["--crop-size", "129"], "--crop-size.*at most.*128"),
        (["--image-folder", "a", "--manual-dir", "b"], "--image-folder.*excludes"),
        (data, "not prepared.*--manual-dir"),
        ([*data, "--manual-dir", str(partial)], "Missing.*ILSVRC2012_img_train.tar"),
        (["--image-folder", str(empty)], "Missing: .*/train"),
        ([*tars, "--gpus", "64"], "--gpus.*Received: 64"),
        ([*tars, "--batch-size", "4"], "--num-sub-batches.*=8 for a batch of 4"),
        ([*tars, "--augmentation", "standart"], "Did you mean 'standard'"),
        ([*tars, "--mixed-precision"], "--mixed-precision.*hessian_vector"),
        ([*tars, "--virtual-devices", "2", "--jit-compile"], "--jit-compile.*one device"),
        ([*tars, "--virtual-devices", "3"], "--batch-size.*divisible"),
        ([*tars, "--epochs", "1"], "--epochs.*at least 2"),
    ]


def test_mistakes_get_one_line_and_status_2_before_anything_is_prepared(
    place, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for flags, message in _mistakes(place, tmp_path):
        with pytest.raises(SystemExit) as caught:
            train_imagenet.main(flags)
        error = capsys.readouterr().err
        assert caught.value.code == 2, flags
        assert error.count("\n") == 1, error
        assert re.search(message, error), error
    assert not list((tmp_path / "empty").iterdir())
    assert not list(tmp_path.rglob("config.json"))


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        train_imagenet.main(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for field in dataclasses.fields(ImageNetConfig):
        assert flag(field.name) in text


@pytest.mark.gpu
def test_two_gpus_give_the_run_of_one(place, tmp_path):
    """One GPU and two, with TF32 off."""
    gpus = len(tf.config.list_physical_devices("GPU"))
    data = ["--data-dir", str(place / "tfds"), "--manual-dir", str(place / "tars")]
    losses = {}
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        for number in range(1, min(gpus, 2) + 1):
            path = tmp_path / str(number)
            flags = [*data, *SMALL, "--epochs", "3", "--run-dir", str(path)]
            assert train_imagenet.main([*flags, "--gpus", str(number)]) == 0
            losses[number] = RunFolder.load(path).read_result()["train"]["loss"]
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)
    for loss in losses.values():
        assert loss == pytest.approx(losses[1], rel=1e-3)
