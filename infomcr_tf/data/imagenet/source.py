"""Where ImageNet's images come from: tensorflow-datasets or folders of classes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infomcr_tf.data.datasets import check_format, errors_only
from infomcr_tf.storage import read_json, write_json

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_datasets as tfds

TARS = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
_PREPARED_FROM = "prepared_from.json"
_KIND = "infomcr_tf source"


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Labelled images, encoded as they were published.

    Attributes:
        name: of the data set.
        num_classes: K.
        sizes: number of images in "train" and "test".
        fingerprint: changes with the images' number or sizes in bytes.
        home: folder in which the data set lies.
    """

    name: str
    home: Path
    num_classes: int
    sizes: dict[str, int]
    fingerprint: str
    _builder: tfds.core.DatasetBuilder
    _splits: dict[str, str]
    _file_name: str

    def images(self, part: str, start: int) -> tf.data.Dataset:
        """The images of `part` from number `start` on, in their order of storage.

        Args:
            part: "train" or "test".
            start: how many to leave out.

        Returns:
            A dataset of (encoded image, label, file name).
        """
        import tensorflow_datasets as tfds

        dataset = self._builder.as_dataset(
            split=self._splits[part],
            shuffle_files=False,
            decoders={"image": tfds.decode.SkipDecoding()},
        )
        return dataset.skip(start).map(
            lambda one: (one["image"], one["label"], one[self._file_name])
        )


def check_places(data_dir: Any, manual_dir: Any, image_folder: Any) -> None:
    """Raises `ValueError` where the images are said to lie in two places."""
    if image_folder is not None and (data_dir is not None or manual_dir is not None):
        raise ValueError(
            "`image_folder` excludes `manual_dir` and `data_dir`. Leave one or the other out."
        )


def open_source(
    *,
    data_dir: str | os.PathLike | None = None,
    manual_dir: str | os.PathLike | None = None,
    image_folder: str | os.PathLike | None = None,
) -> Source:
    """Opens ImageNet; prepares it with tensorflow-datasets where that has not been done.

    Args:
        data_dir: folder in which tensorflow-datasets keeps its prepared data sets (`imagenet2012`
            among them, or to be prepared there); `None` is its own default.
        manual_dir: folder with `ILSVRC2012_img_train.tar` and `ILSVRC2012_img_val.tar`; needed the
            first time only.
        image_folder: instead of these, a folder with images in `train/CLASS/` and `val/CLASS/`.

    Raises:
        ValueError: if the images are not where they should be; the message names what is missing.
    """
    check_places(data_dir, manual_dir, image_folder)
    if image_folder is not None:
        return _open_folder(Path(image_folder))
    import tensorflow_datasets as tfds

    with errors_only():  # it warns of what is not prepared; here that is an error or prepared next
        builder = tfds.builder(
            "imagenet2012", data_dir=None if data_dir is None else os.fspath(data_dir)
        )
        prepared = builder.is_prepared()
    if prepared:
        check_format(builder)
        _check_prepared_from(builder, manual_dir)
    else:
        _prepare(builder, manual_dir)
    splits = {"train": "train", "test": "validation"}
    infos = {part: builder.info.splits.get(split) for part, split in splits.items()}
    for part, info in infos.items():
        if info is None or not info.num_examples:
            raise ValueError(
                f"The prepared data set {builder.data_path} has no split {splits[part]!r}. Remove "
                "that folder and prepare it again from both tar files (`--manual-dir`)."
            )
    content = [[info.name, info.num_bytes, list(info.shard_lengths)] for info in infos.values()]
    return Source(
        name=f"imagenet2012-{builder.version}",
        home=Path(builder.data_path).parent.parent,
        num_classes=builder.info.features["label"].num_classes,
        sizes={part: info.num_examples for part, info in infos.items()},
        fingerprint=_digest(content),
        _builder=builder,
        _splits=splits,
        _file_name="file_name",
    )


def _prepare(builder: tfds.core.DatasetBuilder, manual_dir: str | os.PathLike | None) -> None:
    import tensorflow_datasets as tfds

    if manual_dir is None:
        raise ValueError(
            f"imagenet2012 is not prepared in {builder.data_path}. Pass `--manual-dir` with the "
            f"folder that holds {' and '.join(TARS)} (from https://image-net.org), `--data-dir` "
            "with the folder where it is prepared, or `--image-folder`."
        )
    # tensorflow-datasets itself only warns of a missing file and leaves the split out.
    sizes = _tar_sizes(Path(manual_dir))
    missing = [name for name in TARS if name not in sizes]
    if missing:
        raise ValueError(
            f"`--manual-dir` must hold {' and '.join(TARS)} (from https://image-net.org). "
            f"Missing in {manual_dir}: {', '.join(missing)}"
        )
    config = tfds.download.DownloadConfig(
        manual_dir=os.fspath(Path(manual_dir).resolve()), try_download_gcs=False
    )
    try:
        with errors_only():
            builder.download_and_prepare(download_config=config)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"A tar file in `--manual-dir` {manual_dir} is damaged ({error}). Compare its checksum "
            "with the one that image-net.org states."
        ) from error
    write_json(
        Path(builder.data_path) / _PREPARED_FROM, {"kind": _KIND, "version": 1, "sizes": sizes}
    )


def _tar_sizes(manual_dir: Path) -> dict[str, int]:
    if not manual_dir.is_dir():
        raise ValueError(f"`--manual-dir` must be an existing folder. Received: {manual_dir}")
    paths = [manual_dir / name for name in TARS]
    return {path.name: path.stat().st_size for path in paths if path.is_file()}


def _check_prepared_from(
    builder: tfds.core.DatasetBuilder, manual_dir: str | os.PathLike | None
) -> None:
    """What is prepared already must come from `manual_dir`, if its tar files are still there."""
    record = Path(builder.data_path) / _PREPARED_FROM
    if manual_dir is None or not record.exists():
        return
    sizes = _tar_sizes(Path(manual_dir))
    if sizes and sizes != read_json(record, kind=_KIND, version=1)["sizes"]:
        raise ValueError(
            f"{builder.data_path} was prepared from other tar files than those in `--manual-dir` "
            f"{manual_dir}. Pass another --data-dir, or remove that folder."
        )


def _open_folder(folder: Path) -> Source:
    import tensorflow_datasets as tfds

    splits = {"train": "train", "test": "val"}
    content: dict[str, Any] = {}
    for split in splits.values():
        if not (folder / split).is_dir():
            raise ValueError(
                "`--image-folder` must be a folder with train/ and val/, each with one folder "
                f"per class. Missing: {folder / split}"
            )
        content[split] = sorted(
            (f"{path.parent.name}/{path.name}", path.stat().st_size)
            for path in (folder / split).glob("*/*")
        )
    builder = tfds.ImageFolder(os.fspath(folder))
    infos = {part: builder.info.splits.get(split) for part, split in splits.items()}
    for part, info in infos.items():
        if info is None or not info.num_examples:
            raise ValueError(
                "`--image-folder` must hold JPEG or PNG images in one folder per class. None in: "
                f"{folder / splits[part]}"
            )
    return Source(
        name="image-folder",
        home=folder.resolve().parent,
        num_classes=builder.info.features["label"].num_classes,
        sizes={part: info.num_examples for part, info in infos.items()},
        fingerprint=_digest(content),
        _builder=builder,
        _splits=splits,
        _file_name="image/filename",
    )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
