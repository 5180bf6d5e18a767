"""Data sets by name: CIFAR from tensorflow-datasets, handwritten digits from scikit-learn."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from infomcr_tf.arguments import check_choice
from infomcr_tf.data.image_dataset import ImageDataset
from infomcr_tf.registry import Registry

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


_CONNECT_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """A data set that `--dataset` can name, and what is known about it before it is loaded.

    Attributes:
        load: from a folder (or None) and whether downloading is allowed to the data set; raises
            ValueError where it cannot be had.
        num_images: of its training set.
        image_shape: [H, W, C].
        num_classes: K.
        augmentation: what its images are trained with where none is asked for; None leaves that to
            the architecture's recipe.
    """

    load: Callable[[str | os.PathLike | None, bool], ImageDataset]
    num_images: int
    image_shape: tuple[int, int, int]
    num_classes: int
    augmentation: str | None = None


DATASETS: Registry[DatasetEntry] = Registry("data set")


def load_dataset(
    name: str, data_dir: str | os.PathLike | None = None, download: bool = True
) -> ImageDataset:
    """Loads a data set into memory, in its order of storage.

    - `"cifar10"`, `"cifar100"` (fine labels): tensorflow-datasets, 50,000 + 10,000 images of
      32 x 32 x 3.
    - `"digits"`: scikit-learn's bundled handwritten digits (UCI), 1,797 images of 8 x 8 x 1, always
      at hand. Grey values 0..16 become round(255/16 * value). A fixed stratified split sets 360 of
      them aside as the test set; 1,437 are for training.

    Args:
        name: one of `DATASETS`.
        data_dir: folder in which tensorflow-datasets keeps its prepared data sets; it must exist.
            `None` is tensorflow-datasets' own default. Not used for `"digits"`.
        download: whether to download a data set that is not in `data_dir`.

    Returns:
        An `ImageDataset`.

    Raises:
        ValueError: if `name` is unknown, `data_dir` is not a folder, or the data set is neither on
            disk nor can be downloaded.
    """
    check_choice("name", name, DATASETS)
    if data_dir is not None and not _is_folder(data_dir):
        raise ValueError(
            f"`data_dir` must be an existing folder. Received: {data_dir!r}. "
            "Create it first, or correct the path."
        )
    return DATASETS[name].load(data_dir, download)


def _is_folder(path: object) -> bool:
    try:
        return isinstance(path, (str, os.PathLike)) and Path(path).is_dir()
    except OSError:  # a name that is too long
        return False


def _digits(_data_dir: str | os.PathLike | None, _download: bool) -> ImageDataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = bunch.target.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=360, stratify=labels, random_state=0
    )
    train, test = np.sort(train), np.sort(test)
    return ImageDataset("digits", images[train], labels[train], images[test], labels[test], 10)


def _from_tfds(name: str, data_dir: str | os.PathLike | None, download: bool) -> ImageDataset:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    with errors_only():  # it warns of a missing data set; here that is an error or a download
        builder = tfds.builder(name, data_dir=None if data_dir is None else os.fspath(data_dir))
        prepared = builder.is_prepared()
    if prepared:
        check_format(builder)
    try:
        if not prepared:
            _download(builder, download)
        x_train, y_train, x_test, y_test = [
            array
            for split in ("train", "test")
            for array in tfds.as_numpy(
                builder.as_dataset(
                    split=split, batch_size=-1, shuffle_files=False, as_supervised=True
                )
            )
        ]
    except (tf.errors.OpError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The data set {name!r} is neither prepared and intact in {builder.data_path} nor "
            f"downloadable ({reason[:200]}). Use `--data-dir DIR` (argument `data_dir`) with the "
            f"folder where tensorflow-datasets has prepared it (DIR/{name}/<version>/), or "
            "`--dataset digits`, which needs no download."
        ) from error
    num_classes = builder.info.features["label"].num_classes
    return ImageDataset(name, x_train, y_train, x_test, y_test, num_classes)


def _download(builder: tfds.core.DatasetBuilder, download: bool) -> None:
    if not download:
        raise OSError("downloading is switched off")
    # tensorflow-datasets tries ten times, for minutes, and leaves folders behind: ask once first.
    for url in builder.url_infos:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310  a fixed https address
        # An answer of any kind shows that the host can be reached; the rest is the downloader's.
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(request, timeout=_CONNECT_SECONDS).close()  # noqa: S310
    from tensorflow_datasets.core.download import DownloadConfig, DownloadError

    try:
        builder.download_and_prepare(download_config=DownloadConfig(try_download_gcs=False))
    except DownloadError as error:
        raise OSError(str(error)) from error


def check_format(builder: tfds.core.DatasetBuilder) -> None:
    """Refuses a data set that is prepared in files that tf.data cannot read from the beginning.

    Raises:
        ValueError: if it is not prepared as TFRecord; the message has the command that does it.
    """
    kind = builder.info.file_format
    if kind is not None and kind.value != "tfrecord":
        manual = " --manual_dir TARS" if builder.name.startswith("imagenet") else ""
        raise ValueError(
            f"The data set {builder.name!r} must be prepared as TFRecord. Received: {kind.value} "
            f"in {builder.data_path}. Prepare it in another folder with `tfds build {builder.name} "
            f"--data_dir DIR{manual} --file_format tfrecord`, and use that one: `--data-dir DIR`"
        )


@contextlib.contextmanager
def errors_only() -> Iterator[None]:
    """Keeps tensorflow-datasets' warnings back."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


for _name, _classes in (("cifar10", 10), ("cifar100", 100)):
    DATASETS.register(
        _name,
        DatasetEntry(
            load=functools.partial(_from_tfds, _name),
            num_images=50_000,
            image_shape=(32, 32, 3),
            num_classes=_classes,
        ),
    )
DATASETS.register(
    "digits",
    DatasetEntry(
        load=_digits,
        num_images=1_437,
        image_shape=(8, 8, 1),
        num_classes=10,
        augmentation="no-aug",  # a mirrored digit would be another one
    ),
)
