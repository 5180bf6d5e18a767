"""ImageNet at 128 x 128, read from the cache of resized images."""

import numpy as np
import tensorflow as tf

from infomcr_tf.data import WHOLE, Examples, Shard, imagenet, shuffled_positions
from infomcr_tf.data.order import START, Position
from infomcr_tf.data.splits import check_parts_fit
from infomcr_tf.training.imagenet_config import ImageNetConfig
from infomcr_tf.training.resolved_config import ResolvedConfig
from infomcr_tf.training.run_data import RunData, draw_number

# As float32 crops of 114 x 114 they take 1.6 GB.
_MEASURED_IMAGES = 10_000


class ImageNetData(RunData):
    """See `RunData`."""

    top_k = 5

    def __init__(self, parts: dict[str, imagenet.ResizedImages], config: ImageNetConfig) -> None:
        train, test = parts["train"], parts["test"]
        train_positions, validation_positions = _split(len(train), config)
        self._parts = {
            "train": (train, train_positions),
            "confusion": (train, train_positions[:0]),  # the paper has none for ImageNet
            "validation": (train, validation_positions),
            "test": (test, np.arange(len(test))),
        }
        self.normalization = imagenet.imagenet_normalization(config.normalization)
        self.image_shape = (config.crop_size, config.crop_size, 3)
        self.num_classes = train.num_classes
        self.num_measured = len(train_positions)
        self.indices = train_positions
        self._seed = config.seed

    @classmethod
    def load(cls, config: ImageNetConfig) -> "ImageNetData":
        """Opens the data set and its cache; prepares and resizes where that has not been done.

        Raises:
            ValueError: if it cannot be had, or the sizes do not fit.
            OSError: if the cache cannot be written.
        """
        source = imagenet.open_source(
            data_dir=config.data_dir,
            manual_dir=config.manual_dir,
            image_folder=config.image_folder,
        )
        cache_dir = config.cache_dir or source.home / "resized"
        return cls(imagenet.resize_once(source, cache_dir, image_size=config.image_size), config)

    def training_batches(
        self, config: ResolvedConfig, *, start: Position = START, shard: Shard = WHOLE
    ) -> tf.data.Dataset:
        """See `RunData`."""
        images, positions = self._parts["train"]
        return imagenet.training_crops(
            images,
            positions,
            batch_size=config.batch_size,
            crop_size=self.image_shape[0],
            augmentation=config.augmentation,
            normalization=self.normalization,
            seed=config.seed,
            start_epoch=start.epoch,
            start_step=start.step,
            shard=shard,
        )

    def evaluation_batches(
        self, part: str, *, batch_size: int = 256, shard: Shard = WHOLE
    ) -> tf.data.Dataset | None:
        """See `RunData`."""
        images, positions = self._parts[part]
        if not len(positions):
            return None
        batches = imagenet.evaluation_crops(
            images,
            positions[shard.slice(len(positions))],
            batch_size=batch_size,
            crop_size=self.image_shape[0],
        )
        return batches.map(lambda x, y: (self.normalization.apply(x), y))

    def training_images(self, number: int | None = None) -> Examples:
        """See `RunData`."""
        images, positions = self._parts["train"]
        count = draw_number(number, len(positions))
        if number is None:
            count = min(count, _MEASURED_IMAGES)
        chosen = np.sort(positions[shuffled_positions(len(positions), self._seed)[:count]])
        batches = imagenet.evaluation_crops(
            images, chosen, batch_size=256, crop_size=self.image_shape[0]
        )
        crops, labels = zip(*batches.as_numpy_iterator(), strict=True)
        return Examples(np.concatenate(crops), np.concatenate(labels), chosen)


def _split(num_images: int, config: ImageNetConfig) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training and of the held-out images, increasing."""
    held_out = config.validation_size
    train_size = config.train_size or max(num_images - held_out, 1)
    with config.named_as_flags():
        check_parts_fit(num_images, train_size, held_out)
    order = shuffled_positions(num_images, config.seed)
    return np.sort(order[:train_size]), np.sort(order[num_images - held_out :])
