"""The images resized once, in TFRecord files that are complete or not there.

CACHE_DIR/SOURCE-SIZE-FINGERPRINT/
    train-00000.tfrecord ...   20,000 images each: tf.train.Example with `image` (JPEG) and `label`
    train-00000.npy ...        int64 [n, 2], where each record's bytes begin and how many there are
    manifest.json              what is in it; written last: without it there is no cache

Images are resized to a square (Appendix E resizes, it does not crop) with an antialiased triangle
filter and stored as JPEG of quality 95 without chroma subsampling: a third of PNG's size, decoded
faster (docs/imagenet.md), and a crop is decoded without the rest.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from infomcr_tf.arguments import check_argument, check_integer
from infomcr_tf.data.imagenet.source import Source
from infomcr_tf.progress import progress_bar
from infomcr_tf.storage import read_json, replacing, write_json

_KIND = "infomcr_tf resized images"
_VERSION = 1
_SHARD_SIZE = 20_000
_JPEG_QUALITY = 95
_RECORD_HEADER, _RECORD_FOOTER = 12, 4  # a TFRecord's length and checksums
_FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}


@dataclasses.dataclass(frozen=True, eq=False)
class ResizedImages:
    """One part of a cache, read at random positions.

    Attributes:
        image_size: height and width of the images.
        num_classes: K.
    """

    image_size: int
    num_classes: int
    _shards: list[np.ndarray]  # memory maps
    _places: np.ndarray  # int64 [N, 3]: shard, first byte, number of bytes

    def __len__(self) -> int:
        return len(self._places)

    def read(self, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """JPEG files and labels of the images at `positions`, also in a graph.

        Args:
            positions: integers [n].

        Returns:
            (strings [n], int32 [n]).
        """

        def records(positions: np.ndarray) -> np.ndarray:
            found = np.empty(len(positions), object)
            for i, (shard, start, length) in enumerate(self._places[positions]):
                found[i] = self._shards[shard][start : start + length].tobytes()
            return found

        serialized = tf.ensure_shape(
            tf.numpy_function(records, [positions], tf.string, stateful=False), positions.shape
        )
        examples = tf.io.parse_example(serialized, _FEATURES)
        return examples["image"], tf.cast(examples["label"], tf.int32)


def resize_once(
    source: Source,
    cache_dir: str | os.PathLike,
    *,
    image_size: int = 128,
    shard_size: int = _SHARD_SIZE,
    progress: bool = True,
) -> dict[str, ResizedImages]:
    """Opens the cache of `source`'s images, or makes it; an interrupted call is resumed.

    Args:
        source: the images.
        cache_dir: folder of caches; made if needed.
        image_size: height and width to resize to.
        shard_size: images in a file.
        progress: show a progress bar while resizing.

    Returns:
        The images of "train" and "test".

    Raises:
        ValueError: if an image cannot be decoded, or the cache is damaged.
        OSError: if the cache cannot be written.
    """
    check_argument("image_size", image_size)
    check_integer("shard_size", shard_size, minimum=1)
    folder = Path(cache_dir) / f"{source.name}-{image_size}-{source.fingerprint}"
    if not (folder / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shards = {
            part: [folder / f"{part}-{i:05d}.tfrecord" for i in range(-(-size // shard_size))]
            for part, size in source.sizes.items()
        }
        for part, paths in shards.items():
            _write_shards(source, part, paths, image_size, shard_size, progress)
        write_json(
            folder / "manifest.json",
            {
                "kind": _KIND,
                "version": _VERSION,
                "num_classes": source.num_classes,
                "sizes": source.sizes,
                "shards": {
                    part: {path.name: path.stat().st_size for path in paths}
                    for part, paths in shards.items()
                },
            },
        )
    return _open(folder, image_size, source)


def _open(folder: Path, image_size: int, source: Source) -> dict[str, ResizedImages]:
    manifest = read_json(folder / "manifest.json", kind=_KIND, version=_VERSION)
    stated = {name: manifest.get(name) for name in ("num_classes", "sizes")}
    shards = manifest.get("shards")
    if stated != {"num_classes": source.num_classes, "sizes": source.sizes} or not (
        isinstance(shards, dict) and shards.keys() == source.sizes.keys()
    ):
        raise _damaged(folder, "manifest.json is not that of these images")
    parts = {}
    for part, sizes in shards.items():
        names = [f"{part}-{i:05d}.tfrecord" for i in range(len(sizes or ()))]
        if not isinstance(sizes, dict) or list(sizes) != names:
            raise _damaged(folder, "manifest.json names other files")
        places = [
            np.insert(_record_places(folder / name, size), 0, number, axis=1)
            for number, (name, size) in enumerate(sizes.items())
        ]
        if sum(map(len, places)) != source.sizes[part]:
            raise _damaged(folder, f"it does not hold the {source.sizes[part]} {part} images")
        maps: list[np.ndarray] = [np.memmap(folder / name, np.uint8, "r") for name in names]
        parts[part] = ResizedImages(image_size, source.num_classes, maps, np.concatenate(places))
    return parts


def _record_places(path: Path, size: int) -> np.ndarray:
    """Where the records of a shard begin and how long they are, int64 [n, 2].

    Raises:
        ValueError: if the shard does not have `size` bytes, or its index is not that of one record
            after the other from the first byte to the last.
    """
    if not path.is_file() or path.stat().st_size != size:
        raise _damaged(path.parent, f"{path.name} does not have its {size} bytes")
    try:
        places = np.load(_index(path), allow_pickle=False)
        starts, lengths = places.T
        ends = starts + lengths + _RECORD_FOOTER
        sound = places.dtype == np.int64 and (lengths > 0).all() and ends[-1] == size
        sound = sound and (starts - _RECORD_HEADER == np.insert(ends[:-1], 0, 0)).all()
    except Exception:  # NumPy raises many kinds on a damaged file
        sound = False
    if not sound:
        raise _damaged(path.parent, f"{_index(path).name} is not its index")
    return places


def _damaged(folder: Path, reason: str) -> ValueError:
    return ValueError(
        f"The image cache {folder} is damaged: {reason}. Remove the folder; it is made anew."
    )


def _write_shards(
    source: Source,
    part: str,
    paths: list[Path],
    image_size: int,
    shard_size: int,
    progress: bool,
) -> None:
    """Writes the shards from the first that is missing on. A shard's index follows it."""
    done = next((i for i, path in enumerate(paths) if not _index(path).exists()), len(paths))
    total, start = source.sizes[part], min(done * shard_size, source.sizes[part])
    if done == len(paths):
        return
    resized = source.images(part, start).map(
        lambda image, label, _: (_resize(image, image_size), label),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    examples = iter(resized.prefetch(tf.data.AUTOTUNE))
    title = f"resizing {part} images to {image_size} x {image_size}"
    with progress_bar(total, title=title, done=start, shown=progress) as bar:
        for number, path in enumerate(paths[done:], start=done):
            count = min(shard_size, total - number * shard_size)
            try:
                _write_shard(path, examples, count, bar)
            except (tf.errors.InvalidArgumentError, StopIteration) as error:
                name = _undecodable(source, part, number * shard_size)
                raise ValueError(f"The image {name} cannot be decoded. Replace it.") from error


def _write_shard(
    path: Path, examples: Iterator[tuple[tf.Tensor, tf.Tensor]], count: int, bar: Any
) -> None:
    written: list[int] = []
    with replacing(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for _ in range(count):
            image, label = next(examples)
            record = _example(image.numpy(), int(label))
            writer.write(record)
            written.append(len(record))
            bar.update()
    lengths = np.array(written)
    ends = np.cumsum(lengths + _RECORD_HEADER + _RECORD_FOOTER) - _RECORD_FOOTER
    with replacing(_index(path)) as temporary:
        np.save(temporary, np.stack([ends - lengths, lengths], axis=1))


def _index(path: Path) -> Path:
    return path.with_suffix(".npy")


def _resize(image: tf.Tensor, size: int) -> tf.Tensor:
    image = tf.io.decode_image(image, channels=3, expand_animations=False)
    image = tf.image.resize(image, [size, size], method="bilinear", antialias=True)
    image = tf.saturate_cast(tf.round(image), tf.uint8)
    return tf.io.encode_jpeg(image, quality=_JPEG_QUALITY, chroma_downsampling=False)


def _example(image: bytes, label: int) -> bytes:
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _undecodable(source: Source, part: str, start: int) -> str:
    """The first image from number `start` on that TensorFlow cannot decode."""
    for image, _, name in source.images(part, start):
        try:
            tf.io.decode_image(image, channels=3, expand_animations=False)
        except tf.errors.InvalidArgumentError:
            return name.numpy().decode()
    return "of this data set"
