"""The tar files and the folders of classes that images come from."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tensorflow_datasets.datasets.imagenet2012 import imagenet_common

from infomcr_tf.data import imagenet


def images_of(source, part, start=0):
    return [(x.numpy(), int(y), n.numpy().decode()) for x, y, n in source.images(part, start)]


def test_tar_files_give_all_images_with_their_labels(source):
    assert (source.num_classes, source.sizes) == (1000, {"train": 15, "test": 7})
    names = Path(imagenet_common.label_names_file()).read_text().split()
    train = images_of(source, "train")
    assert len({name for _, _, name in train}) == 15
    for _, label, name in train:
        assert names[label] == name.split("_")[0]
    assert len(images_of(source, "test")) == 7


def test_images_come_in_one_order_and_can_be_begun_anywhere(source):
    whole = images_of(source, "train")
    assert images_of(source, "train") == whole
    assert images_of(source, "train", 6) == whole[6:]


def test_prepared_data_needs_no_tar_files(prepared, source):
    assert imagenet.open_source(data_dir=prepared).fingerprint == source.fingerprint


def test_image_folder(image_folder):
    source = imagenet.open_source(image_folder=image_folder)
    assert (source.num_classes, source.sizes) == (3, {"train": 15, "test": 15})
    for image, label, name in images_of(source, "train"):
        assert "abc"[label] == name.split("/")[-2]
        assert image == Path(name).read_bytes()


def test_fingerprint_follows_the_images(image_folder, tmp_path):
    other = tmp_path / "copy"
    shutil.copytree(image_folder, other)
    first = imagenet.open_source(image_folder=image_folder).fingerprint
    assert imagenet.open_source(image_folder=other).fingerprint == first
    (other / "train" / "a" / "0.jpg").unlink()
    assert imagenet.open_source(image_folder=other).fingerprint != first


@pytest.mark.parametrize("missing", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"])
def test_missing_tar_file_is_named_before_anything_starts(tars, tmp_path, missing):
    manual = tmp_path / "manual"
    shutil.copytree(tars, manual)
    (manual / missing).unlink()
    with pytest.raises(ValueError, match=f"Missing in .*: {missing}$") as error:
        imagenet.open_source(data_dir=tmp_path / "tfds", manual_dir=manual)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "tfds").exists()


def test_truncated_tar_file(tars, tmp_path):
    manual = tmp_path / "manual"
    shutil.copytree(tars, manual)
    path = manual / "ILSVRC2012_img_train.tar"
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"damaged.*checksum"):
        imagenet.open_source(data_dir=tmp_path / "tfds", manual_dir=manual)


def test_other_tar_files_than_those_prepared(prepared, tars, tmp_path):
    imagenet.open_source(data_dir=prepared, manual_dir=tars)  # the same: nothing to do
    manual = tmp_path / "manual"
    shutil.copytree(tars, manual)
    with (manual / "ILSVRC2012_img_val.tar").open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(ValueError, match="prepared from other tar files"):
        imagenet.open_source(data_dir=prepared, manual_dir=manual)


def test_nothing_to_prepare_from(tmp_path):
    with pytest.raises(ValueError, match=r"not prepared in .*--manual-dir"):
        imagenet.open_source(data_dir=tmp_path)
    with pytest.raises(ValueError, match="existing folder"):
        imagenet.open_source(data_dir=tmp_path, manual_dir=tmp_path / "nowhere")


def test_unsuitable_image_folders(image_folder, tmp_path):
    with pytest.raises(ValueError, match=r"Missing: .*/train"):
        imagenet.open_source(image_folder=tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match=r"one folder per class. None in: .*/train"):
        imagenet.open_source(image_folder=tmp_path)
    with pytest.raises(ValueError, match="`image_folder` excludes `manual_dir`"):
        imagenet.open_source(image_folder=image_folder, manual_dir=tmp_path)


def test_real_images(shared_dir, tmp_path):
    """The 20 synsets x 64 images and 200 validation images of the small ImageNet."""
    source = imagenet.open_source(
        data_dir=tmp_path, manual_dir=shared_dir / "data" / "imagenet-mini"
    )
    assert (source.num_classes, source.sizes) == (1000, {"train": 1280, "test": 200})
    labels = np.array([int(y) for _, y, _ in source.images("train", 0)])
    assert (np.bincount(labels)[np.unique(labels)] == 64).all()
    assert len(np.unique(labels)) == 20
