"""The cache of resized images: right, complete or absent, reused."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from infomcr_tf.data import imagenet


def contents(images):
    jpegs, labels = images.read(tf.range(len(images)))
    return list(jpegs.numpy()), labels.numpy().tolist()


def triangle_resize(image, size):
    """Antialiased triangle filter, written out: weights max(0, 1 - |distance| / scale)."""
    for axis in (0, 1):
        length = image.shape[axis]
        scale = max(length / size, 1.0)
        centres = (np.arange(size) + 0.5) * length / size
        distance = np.abs(np.arange(length) + 0.5 - centres[:, np.newaxis]) / scale
        weights = np.maximum(0, 1 - distance)
        weights /= weights.sum(axis=1, keepdims=True)
        image = np.moveaxis(np.tensordot(weights, image, axes=(1, axis)), 0, axis)
    return image


def through_jpeg(image):
    jpeg = tf.io.encode_jpeg(image, quality=95, chroma_downsampling=False)
    return tf.io.decode_jpeg(jpeg).numpy().astype(float)


def test_holds_the_resized_images_in_the_sources_order(source, resized):
    for part in ("train", "test"):
        jpegs, labels = contents(resized[part])
        assert len(resized[part]) == len(jpegs) == source.sizes[part]
        for jpeg, label, (image, own_label, _) in zip(
            jpegs, labels, source.images(part, 0), strict=True
        ):
            expected = triangle_resize(tf.io.decode_jpeg(image).numpy().astype(float), 40)
            expected = through_jpeg(np.rint(expected).astype(np.uint8))
            found = tf.io.decode_jpeg(jpeg).numpy().astype(float)
            # A value near the middle of two integers may be rounded to the other: TensorFlow
            # resizes in float32. With JPEG's quantisation that may be some units in a block.
            assert np.sqrt(np.mean((found - expected) ** 2)) < 1
            assert label == own_label
    assert resized["train"].num_classes == 1000


def test_positions_may_come_in_any_order_and_more_than_once(resized):
    jpegs, labels = contents(resized["train"])
    chosen, their_labels = resized["train"].read(tf.constant([14, 0, 7, 7]))
    assert list(chosen.numpy()) == [jpegs[i] for i in (14, 0, 7, 7)]
    assert their_labels.numpy().tolist() == [labels[i] for i in (14, 0, 7, 7)]


def test_files_are_ordinary_tfrecords(source, tmp_path):
    parts = imagenet.resize_once(source, tmp_path, image_size=16, shard_size=4, progress=False)
    paths = sorted(str(path) for path in tmp_path.rglob("train-*.tfrecord"))
    assert len(paths) == 4
    examples = [
        tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(paths)
    ]
    jpegs = [example.features.feature["image"].bytes_list.value[0] for example in examples]
    assert jpegs == contents(parts["train"])[0]


def test_is_reused(source, tmp_path, monkeypatch):
    first = imagenet.resize_once(source, tmp_path, image_size=16, progress=False)
    monkeypatch.setattr(imagenet.Source, "images", lambda *_: pytest.fail("read again"))
    again = imagenet.resize_once(source, tmp_path, image_size=16, progress=False)
    assert contents(again["train"]) == contents(first["train"])
    with pytest.raises(pytest.fail.Exception, match="read again"):  # another size is read
        imagenet.resize_once(source, tmp_path, image_size=24, progress=False)


def test_other_size_or_source_is_another_cache(source, image_folder, tmp_path):
    for size in (16, 24):
        imagenet.resize_once(source, tmp_path, image_size=size, progress=False)
    other = imagenet.open_source(image_folder=image_folder)
    parts = imagenet.resize_once(other, tmp_path, image_size=16, progress=False)
    assert len(list(tmp_path.iterdir())) == 3
    assert (parts["train"].num_classes, len(parts["test"])) == (3, 15)


def test_interrupted_cache_goes_on_after_the_last_shard(source, tmp_path, monkeypatch):
    whole = imagenet.resize_once(
        source, tmp_path / "a", image_size=16, shard_size=4, progress=False
    )
    images = imagenet.Source.images
    starts = []

    def some(self, part, start):
        starts.append((part, start))
        return images(self, part, start).take(9 if len(starts) == 1 else 100)

    monkeypatch.setattr(imagenet.Source, "images", some)
    with pytest.raises(ValueError, match="data set"):
        imagenet.resize_once(source, tmp_path / "b", image_size=16, shard_size=4, progress=False)
    assert not list((tmp_path / "b").rglob("manifest.json"))
    del starts[1:]
    parts = imagenet.resize_once(
        source, tmp_path / "b", image_size=16, shard_size=4, progress=False
    )
    assert starts[1:] == [("train", 8), ("test", 0)]
    assert contents(parts["train"]) == contents(whole["train"])


BUILD = """
import sys
from infomcr_tf.data import imagenet
source = imagenet.open_source(data_dir=sys.argv[1])
print("ready", flush=True)
imagenet.resize_once(source, sys.argv[2], image_size=400, shard_size=2, progress=False)
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_while_it_is_made_it_is_absent_and_then_complete(source, prepared, tmp_path):
    command = [sys.executable, "-c", BUILD, str(prepared), str(tmp_path / "killed")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 100
        while not list((tmp_path / "killed").rglob("train-*.npy")):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        assert "done" not in process.stdout.read()
    folder = next((tmp_path / "killed").iterdir())
    assert not (folder / "manifest.json").exists()
    parts, whole = (
        imagenet.resize_once(source, tmp_path / name, image_size=400, shard_size=2, progress=False)
        for name in ("killed", "whole")
    )
    for part in ("train", "test"):
        assert contents(parts[part]) == contents(whole[part])


def test_damage_is_found(source, tmp_path):
    imagenet.resize_once(source, tmp_path, image_size=16, progress=False)
    path = next(tmp_path.rglob("test-*.tfrecord"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"damaged: test-00000.tfrecord.*Remove the folder"):
        imagenet.resize_once(source, tmp_path, image_size=16)


def test_undecodable_image_is_named(image_folder, tmp_path):
    import shutil

    folder = tmp_path / "folder"
    shutil.copytree(image_folder, folder)
    bad = folder / "train" / "b" / "3.jpg"
    bad.write_bytes(b"\xff\xd8\xff not a picture")
    source = imagenet.open_source(image_folder=folder)
    with pytest.raises(ValueError, match=f"image {bad} cannot be decoded"):
        imagenet.resize_once(source, tmp_path / "cache", image_size=16, progress=False)


def test_bad_arguments(source, tmp_path):
    with pytest.raises(ValueError, match="`image_size` must be an integer >= 8"):
        imagenet.resize_once(source, tmp_path, image_size=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        imagenet.resize_once(source, tmp_path / "file", image_size=16)
