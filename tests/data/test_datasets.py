"""Loading by name, and the checks of images and labels."""

import dataclasses
import json
import shutil
import time
import urllib.request
from unittest import mock

import numpy as np
import pytest

from infomcr_tf import data


def test_digits(digits):
    from sklearn.datasets import load_digits

    assert digits.x_train.shape == (1437, 8, 8, 1) and digits.x_test.shape == (360, 8, 8, 1)
    assert digits.x_train.dtype == np.uint8 and digits.num_classes == 10
    # All of scikit-learn's images, each once: 1,797 distinct rows.
    raw = load_digits()
    ours = np.concatenate([digits.x_train, digits.x_test]).reshape(1797, -1)
    labels = np.concatenate([digits.y_train, digits.y_test])
    theirs = np.rint(raw.images.reshape(1797, -1) * 255 / 16).astype(int)
    rows = sorted(zip(map(tuple, ours.tolist()), labels.tolist(), strict=True))
    assert rows == sorted(zip(map(tuple, theirs.tolist()), raw.target.tolist(), strict=True))
    assert ours.max() == 255
    # Stratified: class sizes in the test set are a fifth of the whole, to rounding.
    np.testing.assert_allclose(
        np.bincount(digits.y_test), np.bincount(raw.target) * 360 / 1797, atol=1
    )


def test_digits_split_is_fixed(digits):
    again = data.load_dataset("digits")
    np.testing.assert_array_equal(again.x_train, digits.x_train)
    np.testing.assert_array_equal(again.y_test, digits.y_test)


@pytest.mark.slow
def test_cifar10_from_a_prepared_folder(shared_dir):
    dataset = data.load_dataset("cifar10", shared_dir / "data", download=False)
    assert dataset.x_train.shape == (50_000, 32, 32, 3)
    assert dataset.x_test.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(dataset.y_train), [5000] * 10)
    np.testing.assert_array_equal(np.bincount(dataset.y_test), [1000] * 10)
    import tensorflow_datasets as tfds

    stored = tfds.builder("cifar10", data_dir=str(shared_dir / "data")).as_dataset(
        split="test", shuffle_files=False
    )
    for i, example in enumerate(tfds.as_numpy(stored.take(20))):
        np.testing.assert_array_equal(dataset.x_test[i], example["image"])
        assert dataset.y_test[i] == example["label"]
    mean, std = data.channel_statistics(dataset.x_train)
    # What the folder's own description states, to the digit it gives.
    np.testing.assert_allclose(mean, [124.1, 123.0, 112.6], atol=0.05)
    subset = dataset.x_train[:500].astype(np.float64)
    mean, std = data.channel_statistics(dataset.x_train[:500])
    np.testing.assert_allclose(mean, subset.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, subset.std(axis=(0, 1, 2)), rtol=1e-12)


@pytest.fixture
def offline(monkeypatch):
    """No host can be reached, wherever the test runs."""

    refuse = mock.Mock(side_effect=urllib.error.URLError("no network"))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return refuse


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("download", [True, False])
def test_neither_on_disk_nor_downloadable(tmp_path, offline, name, download, capfd):
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"--data-dir DIR.*--dataset digits") as error:
        data.load_dataset(name, tmp_path, download=download)
    assert offline.called == download
    assert time.monotonic() - start < 60  # the downloader alone would try for minutes
    assert "\n" not in str(error.value) and name in str(error.value)
    assert not list(tmp_path.iterdir()), "nothing may be left behind"
    assert "has no dataset_info.json" not in capfd.readouterr().err


def test_download_that_fails_leaves_nothing_that_breaks_a_later_run(tmp_path, monkeypatch):
    """The host answers, the download then breaks off."""
    import tensorflow_datasets as tfds

    class Answer:
        def close(self):
            pass

    def break_off(*args, **kwargs):
        raise tfds.download.DownloadError("broken off\nhalf-way")

    urlopen = mock.Mock(return_value=Answer())
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", break_off)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"broken off half-way.*--data-dir") as error:
            data.load_dataset("cifar10", tmp_path)
        assert "\n" not in str(error.value)
        assert not list(tmp_path.glob("cifar10/3*"))
    urlopen.assert_called()


def test_other_file_formats(tmp_path):
    """Prepared as ArrayRecord: one line with the command that prepares what is needed."""
    import tensorflow_datasets as tfds

    with data.datasets.errors_only():
        builder = tfds.builder("cifar10", data_dir=str(tmp_path), file_format="array_record")
    builder.info.set_splits(
        tfds.core.splits.SplitDict(
            [
                tfds.core.SplitInfo(name=name, shard_lengths=[1], num_bytes=1)
                for name in ("train", "test")
            ]
        )
    )
    folder = tmp_path / "cifar10" / str(builder.version)
    folder.mkdir(parents=True)
    builder.info.write_to_directory(str(folder))
    with pytest.raises(ValueError, match=r"tfds build cifar10.*--file_format tfrecord") as error:
        data.load_dataset("cifar10", tmp_path, download=False)
    assert "\n" not in str(error.value)


def test_damaged_files(shared_dir, tmp_path):
    source = shared_dir / "data" / "cifar10" / "3.0.2"
    copy = tmp_path / "cifar10" / "3.0.2"
    copy.mkdir(parents=True)
    for file in source.iterdir():
        if "tfrecord" in file.name:
            (copy / file.name).write_bytes(b"not a record" * 100)
        else:
            shutil.copy(file, copy)
    assert json.loads((copy / "dataset_info.json").read_text())
    with pytest.raises(ValueError, match="neither prepared and intact") as error:
        data.load_dataset("cifar10", tmp_path)
    assert "\n" not in str(error.value)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"Received: name='cifar-10'. Did you mean 'cifar10'\?"):
        data.load_dataset("cifar-10")
    with pytest.raises(ValueError, match="must be one of"):
        data.load_dataset(3)


@pytest.mark.parametrize("name", data.DATASETS)
def test_missing_data_dir_is_not_created(tmp_path, name):
    with pytest.raises(ValueError, match="`data_dir` must be an existing folder"):
        data.load_dataset(name, tmp_path / "missing")
    assert not list(tmp_path.iterdir())


IMAGES = np.zeros((3, 4, 5, 2), np.float32)
WITH_NAN = IMAGES.copy()
WITH_NAN[1, 2, 3, 1] = np.nan
WITH_INF = IMAGES.copy()
WITH_INF[2, 0, 0, 0] = -np.inf


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[0], [0, 1, 2], r"must be \[N, height, width, channels\].*\(4, 5, 2\)"),
        (IMAGES[:0], [], "must not be empty"),
        (WITH_NAN, [0, 1, 2], "must be finite.*image 1"),
        (WITH_INF, [0, 1, 2], "must be finite.*image 2"),
        (IMAGES.astype(str), [0, 1, 2], "must be numbers"),
        (IMAGES, [0, 1], r"one integer per image, shape \(3,\). Received: shape=\(2,\)"),
        (IMAGES, [[0], [1], [2]], "one integer per image"),
        (IMAGES, [0.0, 1.0, 2.0], "`labels` must be integers"),
        (IMAGES, [0, 1, 3], "< num_classes=3. Received: labels from 0 to 3"),
        (IMAGES, [-1, 1, 2], "Received: labels from -1 to 2"),
    ],
)
def test_bad_examples(images, labels, message):
    with pytest.raises(ValueError, match=message) as error:
        data.check_labelled_images(images, labels, num_classes=3)
    assert "\n" not in str(error.value)


def test_good_examples_are_not_copied():
    images, labels = data.check_labelled_images(IMAGES, np.array([0, 2, 1], np.int64))
    assert images is IMAGES
    assert labels.dtype == np.int32 and labels.tolist() == [0, 2, 1]


def test_image_dataset_is_validated(digits):
    with pytest.raises(ValueError, match="`x_test` must be uint8"):
        dataclasses.replace(digits, x_test=digits.x_test.astype(np.float32))
    with pytest.raises(ValueError, match="images of one shape"):
        dataclasses.replace(digits, x_test=digits.x_test[:, :7])
    with pytest.raises(ValueError, match="num_classes=9"):
        dataclasses.replace(digits, num_classes=9)
