import imagenet_files
import pytest

from infomcr_tf.data import imagenet


@pytest.fixture(scope="session")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    imagenet_files.write_tars(folder)
    return folder


@pytest.fixture(scope="session")
def prepared(tars, tmp_path_factory):
    """Where tensorflow-datasets has prepared the generated tar files."""
    data_dir = tmp_path_factory.mktemp("tfds")
    imagenet.open_source(data_dir=data_dir, manual_dir=tars)
    return data_dir


@pytest.fixture(scope="session")
def source(prepared):
    return imagenet.open_source(data_dir=prepared)


@pytest.fixture(scope="session")
def resized(source, tmp_path_factory):
    """The cache, 40 x 40, in shards of 4."""
    cache_dir = tmp_path_factory.mktemp("cache")
    return imagenet.resize_once(source, cache_dir, image_size=40, shard_size=4, progress=False)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    imagenet_files.write_folder(folder)
    return folder
