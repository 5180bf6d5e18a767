"""A trained minimum with the examples to measure it on."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from infomcr_tf.command_line.options import Options, option
from infomcr_tf.data import DATASETS, NORMALIZATIONS, Normalization
from infomcr_tf.gradients.examples import check_examples
from infomcr_tf.regularizer import FisherRegularizedModel
from infomcr_tf.training import (
    CifarConfig,
    RunFolder,
    evaluate,
    load_data,
    load_model,
    logits_function,
)
from infomcr_tf.training.config import TrainConfig

_SAMPLE = "training images to measure on"
_DATA = "data of a .keras file (a run folder knows its own)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """What a model file does not say: the data it was trained on.

    Raises:
        ValueError: if a value is out of range.
    """

    data_dir: str | None = option(
        None,
        "Folder of the data sets that tensorflow-datasets has prepared (also for run folders "
        "whose data has moved).",
        group=_DATA,
    )
    num_images: int | None = option(
        None,
        "Measure on this many training images, drawn at random (default: all; ImageNet: 10000).",
        group=_SAMPLE,
        minimum=1,
    )
    dataset: str | None = option(None, "Data set.", group=_DATA, choices=DATASETS)
    train_size: int | None = option(None, "Random training subset (default: all).", group=_DATA)
    validation_size: int = option(0, "Images that were held out of training.", group=_DATA)
    data_seed: int = option(0, "Seed of the subset.", group=_DATA, minimum=0)
    normalization: str = option(
        "computed", "Normalisation of the images.", group=_DATA, choices=NORMALIZATIONS
    )

    def train_config(self) -> CifarConfig:
        """The configuration of a run on this data.

        Raises:
            ValueError: if no data set is named.
        """
        if self.dataset is None:
            raise ValueError(
                "A .keras file needs `--dataset`, on which it was trained. Received: none"
            )
        return CifarConfig(
            dataset=self.dataset,
            data_dir=self.data_dir,
            train_size=self.train_size,
            validation_size=self.validation_size,
            seed=self.data_seed,
            normalization=self.normalization,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Minimum:
    """A trained model, its own un-augmented training subset, and its errors.

    Attributes:
        name: what tables and figures call it.
        model: the plain model, ending in logits.
        images: uint8 [N, H, W, C], without confusion set and augmentation.
        y: integers [N].
        normalization: of the images.
        result: `train`, `test` and perhaps `validation`, each with `loss` and `error`.
        history: one mapping per epoch of training, or None for a model file.
    """

    name: str
    model: keras.Model
    images: np.ndarray
    y: np.ndarray
    normalization: Normalization
    result: dict[str, Any]
    history: list[dict[str, float]] | None = None

    @property
    def x(self) -> np.ndarray:
        """Normalised float32 images; made anew, so that several minima fit into memory."""
        return np.asarray(self.normalization.apply(self.images))

    def targets(self, loss: str) -> np.ndarray:
        """The labels as `loss` (see `characterize`) wants them: one-hot unless it is sparse."""
        wanted = self.model.loss if loss == "compiled" else loss
        name = getattr(wanted, "name", getattr(wanted, "__name__", wanted))
        if loss == "auto" or "sparse" in str(name):
            return self.y
        return keras.utils.to_categorical(self.y, self.model.output_shape[-1])

    @classmethod
    def open(cls, path: str | os.PathLike, data_options: DataOptions) -> "Minimum":
        """Opens a complete run folder or a `.keras` file.

        Args:
            path: the folder or file.
            data_options: for a folder only `data_dir` (where its data set lies, if no longer where
                it was) and `num_images` count.

        Raises:
            FileNotFoundError: if there is no such folder or file, or the run is not complete.
            ValueError: if a file is damaged or cannot be loaded safely, its data set cannot be had,
                or the two do not fit.
        """
        if Path(path).suffix == ".keras":
            model = load_model(path)
            config: TrainConfig = data_options.train_config()
            result = history = None
        else:
            folder = RunFolder.load(path)
            result, history = folder.read_result(), folder.read_history()
            model = folder.load_model()
            config = folder.config
            if data_options.data_dir is not None:
                config = dataclasses.replace(config, data_dir=data_options.data_dir)
        run_data = load_data(config)
        _check_fit(path, model, run_data.image_shape, run_data.num_classes)
        result = result or {
            part: evaluate(logits_function(model), run_data.evaluation_batches(part))
            for part in ("train", "test")
        }
        train = run_data.training_images(data_options.num_images)
        normalization = run_data.normalization
        return cls(str(path), model, train.images, train.labels, normalization, result, history)


def classification_error(model: keras.Model, x: Any, y: Any) -> float:
    """The share of examples that a model classifies wrongly, whether it ends in logits or not.

    Raises:
        ValueError: where the data does not fit the model.
    """
    plain = model.model if isinstance(model, FisherRegularizedModel) else model
    x, labels = check_examples(plain, x, y)
    return float(np.mean(plain.predict(x, verbose=0).argmax(-1) != labels))


def _check_fit(
    path: str | os.PathLike, model: keras.Model, image_shape: tuple[int, ...], num_classes: int
) -> None:
    wanted, classes = model.input_shape, model.output_shape
    fits = (
        isinstance(wanted, tuple)
        and isinstance(classes, tuple)
        and len(wanted) == len(image_shape) + 1
        and all(size in (None, own) for size, own in zip(wanted[1:], image_shape, strict=True))
        and classes[-1] == num_classes
    )
    if not fits:
        raise ValueError(
            f"The model {path} maps inputs of shape {wanted} to outputs of shape {classes}. "
            f"Received: images of shape {image_shape} with {num_classes} classes. Name the data "
            "set it was trained on with --dataset."
        )
