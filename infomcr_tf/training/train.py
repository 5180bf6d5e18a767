"""One training run: from a configuration to a complete run folder."""

import dataclasses
import functools
from typing import Any

import keras
import tensorflow as tf

from infomcr_tf import data, models
from infomcr_tf.regularizer import BetaSchedule, FisherRegularizedModel
from infomcr_tf.storage import replacing
from infomcr_tf.training.checkpoint import Checkpoint
from infomcr_tf.training.config import TrainConfig
from infomcr_tf.training.devices import distribution_strategy
from infomcr_tf.training.evaluation import evaluate
from infomcr_tf.training.learning_rate import learning_rate_callback
from infomcr_tf.training.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class RunData:
    """A run's own examples, drawn again from its configuration."""

    splits: data.Splits
    normalization: data.Normalization

    @classmethod
    def load(cls, config: TrainConfig) -> "RunData":
        """Loads and splits the data set.

        Raises:
            ValueError: if it cannot be had, or the sizes do not fit.
        """
        splits = data.split_dataset(
            _load_dataset(config.dataset, config.data_dir),
            train_size=config.train_size,
            validation_size=config.validation_size,
            confusion_size=config.confusion_size,
            seed=config.seed,
        )
        normalization = data.make_normalization(config.normalization, splits.train.images)
        return cls(splits, normalization)


# Decoding CIFAR takes seconds; runs that are compared share a data set.
_load_dataset = functools.lru_cache(maxsize=1)(data.load_dataset)


class TrainingRun:
    """A run that is ready to start: nothing about its configuration can fail any more.

    Args:
        config: what to train; what it leaves to the recipe is filled in.

    Attributes:
        config: the resolved configuration.
        folder: the run folder, claimed.
        data: the run's examples.

    Raises:
        ValueError: if the configuration cannot be carried out.
        OSError: if the run folder cannot be written.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.strategy = distribution_strategy(config.gpus, config.virtual_devices)
        self.data = RunData.load(config)
        images, labels = self.data.splits.training_examples()
        self.config = config = config.resolve(len(images))
        replicas = self.strategy.num_replicas_in_sync
        if config.batch_size % replicas:
            raise ValueError(
                f"`--batch-size` should be divisible by the number of devices, {replicas}. "
                f"Received: {config.batch_size}"
            )
        self._steps_per_epoch = len(images) // config.batch_size
        self._images, self._labels = images, labels
        with self.strategy.scope():
            self._model = self._compiled_model()
        normalization = self.data.normalization
        self.folder = RunFolder.claim(
            config,
            normalization=dataclasses.asdict(normalization),
            steps_per_epoch=self._steps_per_epoch,
            num_parameters=sum(int(w.shape.num_elements()) for w in self._model.trainable_weights),
        )

    def run(self, *, verbose: int | str = "auto") -> dict[str, Any]:
        """Trains, or goes on, until the run is complete.

        Args:
            verbose: Keras' progress display: 0 nothing, 1 a bar, 2 a line per epoch.

        Returns:
            The content of `result.json`: losses and errors on the un-augmented training,
            validation (if any) and test images.
        """
        if self.folder.is_complete:
            return self.folder.read_result()
        callbacks = self._callbacks()
        checkpoint = Checkpoint(self.folder.checkpoint_path, self.folder.history_path, callbacks)
        checkpoint.restore(self._model)
        self._model.fit(
            self._training_batches(checkpoint.epochs_done),
            steps_per_epoch=self._steps_per_epoch,
            initial_epoch=checkpoint.epochs_done,
            epochs=self.config.epochs,
            validation_data=self._validation_batches(),
            shuffle=False,  # the batches are shuffled
            callbacks=[*callbacks, checkpoint],
            verbose=verbose,
        )
        return self._finish()

    def _compiled_model(self) -> keras.Model:
        config = self.config
        model = self._new_model()
        if config.regularize != "never":
            model = FisherRegularizedModel(
                model,
                alpha=config.alpha,
                beta=config.beta,
                num_sub_batches=config.num_sub_batches,
                data_term=config.data_term,
            )
        model.compile(
            optimizer=keras.optimizers.SGD(
                config.learning_rate, momentum=config.momentum, nesterov=config.nesterov
            ),
            loss=keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=config.label_smoothing
            ),
            metrics=["accuracy"],
            jit_compile=False,
        )
        model.optimizer.build(model.trainable_variables)
        return model

    def _new_model(self) -> keras.Model:
        config, splits = self.config, self.data.splits
        return models.ARCHITECTURES[config.model](
            input_shape=splits.train.images.shape[1:],
            num_classes=splits.num_classes,
            weight_decay=config.weight_decay,
            seed=config.seed,
        )

    def _callbacks(self) -> list[keras.callbacks.Callback]:
        config = self.config
        learning_rate = learning_rate_callback(
            config.schedule,
            recipe=config.recipe,
            learning_rate=config.learning_rate,
            epochs=config.epochs,
            patience=config.patience,
        )
        callbacks = [] if learning_rate is None else [learning_rate]
        if config.regularize != "never":
            callbacks.append(BetaSchedule(config.regularize, beta=config.beta))
        tensorboard = keras.callbacks.TensorBoard(self.folder.logs_path, write_graph=False)
        return [*callbacks, tensorboard]

    def _training_batches(self, start_epoch: int) -> tf.data.Dataset:
        batches = data.training_dataset(
            self._images,
            self._labels,
            batch_size=self.config.batch_size,
            augmentation=self.config.augmentation,
            normalization=self.data.normalization,
            seed=self.config.seed,
            start_epoch=start_epoch,
        )
        return batches.map(self._one_hot)

    def _validation_batches(self) -> tf.data.Dataset | None:
        validation = self.data.splits.validation
        if not len(validation):
            return None
        return data.evaluation_dataset(
            validation.images,
            validation.labels,
            batch_size=self.config.batch_size,
            normalization=self.data.normalization,
        ).map(self._one_hot)

    def _one_hot(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return images, tf.one_hot(labels, self.data.splits.num_classes)

    def _finish(self) -> dict[str, Any]:
        trained = self._model.model if self.config.regularize != "never" else self._model
        model = self._new_model()  # neither compiled nor bound to the strategy
        model.set_weights(trained.get_weights())
        with replacing(self.folder.model_path) as temporary:
            model.save(temporary)
        splits = self.data.splits
        parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
        result = {
            name: evaluate(model, part, self.data.normalization)
            for name, part in parts.items()
            if len(part)
        }
        self.folder.write_result(result)
        self.folder.checkpoint_path.unlink()
        return result
