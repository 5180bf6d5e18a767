"""How long runs will take, from steps measured on this machine."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf import models
from infomcr_tf.data import DATASETS
from infomcr_tf.experiments.experiment import Run
from infomcr_tf.regularizer import SCHEDULES
from infomcr_tf.storage import read_json, write_json
from infomcr_tf.training import CifarConfig, ImageNetConfig
from infomcr_tf.training.config import TrainConfig
from infomcr_tf.training.learning_rate import drop_epochs
from infomcr_tf.training.resolved_config import ResolvedConfig
from infomcr_tf.training.run import with_penalty

_KIND = "infomcr_tf step times"
_STEPS = 5
_ENOUGH_SECONDS = 10.0
_IMAGENET_IMAGES, _IMAGENET_CLASSES = 1_281_167, 1000


class StepTimes:
    """Seconds of a training step, measured when first asked for and kept in a file.

    Args:
        path: the file.
        progress: say what is being measured.
    """

    def __init__(self, path: Path, *, progress: bool = True) -> None:
        self._path = path
        self._progress = progress
        self._seconds: dict[str, float] = {}
        if path.exists():
            self._seconds = read_json(path, kind=_KIND, version=1)["seconds"]

    def estimate(self, run: Run) -> float:
        """Seconds of the steps of `run`, at most.

        Without reading data, evaluation and measurements; a run with a target loss may need fewer.
        """
        config = run.config.resolve(_data(run.config)[0])
        epochs, steps = epochs_and_steps(run)
        regularized = _regularized_epochs(config)
        seconds = (epochs - regularized) * self._step(config, regularized=False)
        if regularized:
            seconds += regularized * self._step(config, regularized=True)
        return seconds * (steps // epochs)

    def ratio(self, config: TrainConfig) -> float:
        """Time of a step with the penalty over that of one without."""
        resolved = config.resolve(_data(config)[0])
        return self._step(resolved, regularized=True) / self._step(resolved, regularized=False)

    def _step(self, config: ResolvedConfig, *, regularized: bool) -> float:
        _, shape, classes = _data(config)
        key = f"{config.model} {shape} {classes} batch {config.batch_size}"
        if regularized:
            key += f" M {config.num_sub_batches} {config.estimator} {config.data_term}"
        if key not in self._seconds:
            if self._progress:
                print(f"measuring a step of {key}", flush=True)
            self._seconds[key] = _measure(config, shape, classes, regularized)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, {"kind": _KIND, "version": 1, "seconds": self._seconds})
        return self._seconds[key]


def epochs_and_steps(run: Run) -> tuple[int, int]:
    """Epochs and steps of a run, at most."""
    images, _, _ = _data(run.config)
    config = run.config.resolve(images)
    return config.epochs, config.epochs * (images // config.batch_size)


def describe_plan(runs: Sequence[Run], estimates: Sequence[float] = ()) -> str:
    """The plan as text: a line per setting, with its duration if there are estimates of runs."""
    lines = []
    for setting in {run.setting.title: run.setting for run in runs}.values():
        own = [i for i, run in enumerate(runs) if run.setting is setting]
        epochs, steps = epochs_and_steps(runs[own[0]])
        line = f"  {setting.title:40s} {len(own)} run(s) of at most {epochs} epochs, {steps} steps"
        if estimates:
            line += f": {_duration(sum(estimates[i] for i in own))}"
        lines.append(line)
    return "\n".join(lines)


def total(estimates: Sequence[float]) -> str:
    """Number and length of runs, as text."""
    return (
        f"{len(estimates)} different runs, at most {_duration(sum(estimates))} of training steps "
        "on this machine as it is now"
    )


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _data(config: TrainConfig) -> tuple[int, tuple[int, int, int], int]:
    """Images in an epoch, their shape, and classes."""
    if isinstance(config, CifarConfig):
        data = DATASETS[config.dataset]
        rest = data.num_images - config.validation_size - config.confusion_size
        images = config.train_size or rest
        return images + config.confusion_size, data.image_shape, data.num_classes
    assert isinstance(config, ImageNetConfig)
    images = config.train_size or _IMAGENET_IMAGES - config.validation_size
    return images, (config.crop_size, config.crop_size, 3), _IMAGENET_CLASSES


def _regularized_epochs(config: ResolvedConfig) -> int:
    """Epochs with the penalty, as far as they are known before the run."""
    curve = SCHEDULES[config.regularize]
    stages_known = config.schedule == "recipe" or not curve.by_stage or config.regularize == "never"
    if not stages_known:
        return config.epochs
    drops = [first for first, _ in drop_epochs(config.recipe, config.epochs)]
    last = max(1, config.epochs - 1)
    return sum(
        curve.factor(sum(first <= epoch for first in drops), epoch / last) > 0
        for epoch in range(config.epochs)
    )


def _measure(
    config: ResolvedConfig, shape: tuple[int, int, int], classes: int, regularized: bool
) -> float:
    """Median seconds of some steps on random images; fewer where a step takes long."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((config.batch_size, *shape), np.float32)
    y = generator.integers(0, classes, config.batch_size)
    model = models.ARCHITECTURES[config.model](
        input_shape=shape, num_classes=classes, weight_decay=config.weight_decay, seed=0
    )
    if regularized:
        model = with_penalty(model, config)
    model.compile(
        keras.optimizers.SGD(1e-6),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    batches = tf.data.Dataset.from_tensors((x, y)).repeat(_STEPS + 1)
    clock = _Clock()
    model.fit(batches, shuffle=False, verbose=0, callbacks=[clock])
    return statistics.median(clock.seconds[1:])


class _Clock(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.seconds.append(time.perf_counter() - self._start)
        if sum(self.seconds[1:]) > _ENOUGH_SECONDS:  # the first one is traced
            self.model.stop_training = True
