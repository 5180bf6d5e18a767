"""Training, validation and confusion sets drawn from one data set (section 7.1, Scenario I)."""

from __future__ import annotations

import dataclasses

import numpy as np

from infomcr_tf.arguments import check_argument
from infomcr_tf.data.image_dataset import ImageDataset


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Some images of a data set.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: int32 [N].
        indices: int64 [N], the positions in `x_train` (or `x_test`) the images were taken from,
            increasing.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Disjoint parts of a data set.

    Attributes:
        train: the training subset, with its true labels. Metrics are measured on it.
        validation: images held out of training.
        confusion: other images, with uniformly random labels.
        test: the data set's own test set.
        num_classes: K.
    """

    train: Examples
    validation: Examples
    confusion: Examples
    test: Examples
    num_classes: int

    def training_examples(self) -> tuple[np.ndarray, np.ndarray]:
        """What the optimiser sees: the training subset followed by the confusion set."""
        if not len(self.confusion):
            return self.train.images, self.train.labels
        return (
            np.concatenate([self.train.images, self.confusion.images]),
            np.concatenate([self.train.labels, self.confusion.labels]),
        )


def check_parts_fit(
    num_images: int, train_size: int, validation_size: int, confusion_size: int = 0
) -> None:
    """Raises `ValueError` where the parts of a training set cannot be disjoint."""
    if train_size + validation_size + confusion_size > num_images:
        raise ValueError(
            "`train_size` + `validation_size` + `confusion_size` must be at most the number of "
            f"training images, {num_images}, so that the parts are disjoint. Received: "
            f"{train_size} + {validation_size} + {confusion_size}. Pass a smaller `train_size`."
        )


def split_dataset(
    dataset: ImageDataset,
    *,
    train_size: int | None = None,
    validation_size: int = 0,
    confusion_size: int = 0,
    nested: bool = True,
    seed: int = 0,
) -> Splits:
    """Draws disjoint random training, validation and confusion sets from `dataset`'s training set.

    All three come from one permutation of the training set: the training subset from its front, the
    validation set from its end, the confusion set in front of that. Each part is in the data set's
    order of storage. Where they are `nested`, the permutation is fixed by `seed`: the training
    subset depends on (`seed`, `train_size`) alone once `train_size` is given, and a larger subset
    contains the smaller one. Otherwise it depends on the three sizes too, so that every size of the
    confusion set comes with a new one and a new training subset, as in the paper's Scenario I.

    Args:
        dataset: what to draw from.
        train_size: images for training; `None` takes all that `validation_size` leaves.
        validation_size: images held out.
        confusion_size: images, from the rest, whose labels are drawn uniformly from all K classes
            (the true one included).
        nested: whether splits of different sizes share their images.
        seed: integer >= 0.

    Returns:
        The parts; empty ones have no images.

    Raises:
        ValueError: if a size is negative or the sizes do not fit into the training set.
    """
    num_images = len(dataset.x_train)
    validation_size = check_argument("validation_size", validation_size)
    confusion_size = check_argument("confusion_size", confusion_size)
    seed = check_argument("seed", seed)
    if train_size is None:
        train_size = max(num_images - validation_size, 1)
    train_size = check_argument("train_size", train_size)
    check_parts_fit(num_images, train_size, validation_size, confusion_size)
    key = [seed] if nested else [seed, train_size, validation_size, confusion_size]
    order = _generator(key, stream=0).permutation(num_images)
    from_end = order[::-1]
    confusion = from_end[validation_size : validation_size + confusion_size]
    random_labels = _generator(key, stream=1).randint(dataset.num_classes, size=confusion_size)
    by_index = np.argsort(confusion)
    return Splits(
        train=_take(dataset, order[:train_size]),
        validation=_take(dataset, from_end[:validation_size]),
        confusion=dataclasses.replace(
            _take(dataset, confusion), labels=random_labels[by_index].astype(np.int32)
        ),
        test=Examples(dataset.x_test, dataset.y_test, np.arange(len(dataset.x_test))),
        num_classes=dataset.num_classes,
    )


def shuffled_positions(num_images: int, seed: int) -> np.ndarray:
    """The permutation, int64 [N], from which a run's parts are drawn."""
    return _generator([seed], stream=0).permutation(num_images)


def _take(dataset: ImageDataset, indices: np.ndarray) -> Examples:
    indices = np.sort(indices)
    return Examples(dataset.x_train[indices], dataset.y_train[indices], indices)


def _generator(key: list[int], *, stream: int) -> np.random.RandomState:
    # NumPy guarantees the streams of RandomState for all versions, those of Generator not: a run's
    # training subset must be the same when it is drawn again years later.
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([*key, stream])))
