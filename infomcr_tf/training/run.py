"""One training run: from a configuration to a complete run folder."""

import contextlib
import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf import models
from infomcr_tf.data.order import Position
from infomcr_tf.regularizer import BetaSchedule, FisherRegularizedModel
from infomcr_tf.regularizer.replicas import AverageReplicas
from infomcr_tf.training.checkpoint import Checkpoint
from infomcr_tf.training.config import TrainConfig
from infomcr_tf.training.evaluation import TargetLoss, Validation
from infomcr_tf.training.kinds import load_data
from infomcr_tf.training.learning_rate import LEARNING_RATE_SCHEDULES, TrainingPlan
from infomcr_tf.training.loop import train
from infomcr_tf.training.nonfinite import NonFiniteError, NonFiniteGuard
from infomcr_tf.training.outcome import Outcome
from infomcr_tf.training.resolved_config import ResolvedConfig
from infomcr_tf.training.run_folder import RunFolder
from infomcr_tf.training.state import build_metrics
from infomcr_tf.training.stopping import StoppingRule
from infomcr_tf.training.strategy import distribution_strategy
from infomcr_tf.training.tensorboard import TensorBoard
from infomcr_tf.training.time_left import TimeLeft
from infomcr_tf.training.workers import Workers


def with_penalty(model: keras.Model, config: ResolvedConfig, **more: Any) -> FisherRegularizedModel:
    """The model with the penalty that a configuration describes.

    Args:
        model: built.
        config: of the run.
        **more: further arguments of `FisherRegularizedModel`.
    """
    return FisherRegularizedModel(
        model,
        alpha=config.alpha,
        beta=config.beta,
        num_sub_batches=config.num_sub_batches,
        data_term=config.data_term,
        estimator=config.estimator,
        **more,
    )


class TrainingRun:
    """A run that is ready to start: nothing about its configuration can fail any more.

    Args:
        config: what to train; what it leaves to the recipe is filled in.

    Attributes:
        config: the resolved configuration.
        folder: the run folder, claimed; None in a worker that is not the chief.
        data: the run's examples.
        workers: the processes that train together.

    Raises:
        ValueError: if the configuration cannot be carried out.
        OSError: if the run folder cannot be written.
    """

    def __init__(self, config: TrainConfig) -> None:
        if config.deterministic:
            tf.config.experimental.enable_op_determinism()
            keras.utils.set_random_seed(config.seed)
        self.strategy = distribution_strategy(config.gpus, config.virtual_devices)
        self.workers = Workers(self.strategy)
        config.check(self.strategy.num_replicas_in_sync, num_workers=self.workers.shard.count)
        if self.workers.is_chief:
            for each in (config, *map(config.kept_at, config.kept_losses)):
                RunFolder.check_place(each.run_dir or each.default_run_dir)
        self.data = self.workers.chief_first(lambda: load_data(config))
        self.config = config.resolve(self.data.num_images)
        self._steps_per_epoch = self.data.num_images // self.config.batch_size
        with self.strategy.scope():
            self._model = self._compiled_model()
        self._guard = NonFiniteGuard(
            config.on_nonfinite, self._describe_step, patience=self._steps_per_epoch
        )
        self._outcome = Outcome(self.data, self.workers, self._new_model, self._trained_weights)
        self.folder = RunFolder.claim(self.config, **self._about) if self.workers.is_chief else None

    def run(self, *, verbose: int | str = "auto") -> dict[str, Any]:
        """Trains, or resumes, until the run is complete.

        Args:
            verbose: Keras' progress display: 0 nothing, 1 a bar, 2 a line per epoch.

        Returns:
            The content of `result.json`: losses and errors on the un-augmented training,
            confusion (if any), validation (if any) and test images. In a worker that is not the
            chief: nothing.

        Raises:
            Interrupted: after SIGINT or SIGTERM, when the state is saved.
            NonFiniteError: if a step leaves NaN or infinity; see `--on-nonfinite`.
            DamagedRunError: if the run's state cannot be read.
            BlockingIOError: if another process uses the run folder.
            DiskFullError: if a file cannot be written for want of space.
        """
        with self.folder.in_use() if self.folder else contextlib.nullcontext():
            return self._run(verbose)

    def _run(self, verbose: int | str) -> dict[str, Any]:
        complete = self.folder is not None and self.folder.is_complete
        if self.workers.from_chief(b"complete" if complete else None):
            return self.folder.read_result() if self.folder is not None else {}
        verbose = verbose if self.workers.is_chief else 0
        self._train(verbose)
        return self._finish(progress=verbose == 1)

    @property
    def _about(self) -> dict[str, Any]:
        weights = self._model.trainable_weights
        return {
            "normalization": dataclasses.asdict(self.data.normalization),
            "steps_per_epoch": self._steps_per_epoch,
            "num_parameters": sum(int(weight.shape.num_elements()) for weight in weights),
        }

    def _train(self, verbose: int | str) -> None:
        config, model = self.config, self._model
        build_metrics(model, self._batch_spec())
        self._guard.watch(model)
        callbacks = self._callbacks()
        checkpoint = Checkpoint(
            self.folder,
            [*callbacks, self._guard],
            self.workers,
            save_every=config.save_every,
            steps_per_epoch=self._steps_per_epoch,
        )
        checkpoint.restore(model)
        target = self._target_loss(checkpoint)
        after_an_epoch = checkpoint.position.epoch > 0 and checkpoint.position.step == 0
        if target is not None and after_an_epoch and target.reached():
            return
        stopping = StoppingRule(config.stop, lambda: checkpoint.rows)
        if checkpoint.position.epoch == config.epochs or (after_an_epoch and stopping.reached()):
            return
        later = config.regularize not in ("never", "always")
        clock = [TimeLeft(config.epochs, regularized_later=later)] if verbose else []
        callback_list = keras.callbacks.CallbackList(
            [*callbacks, checkpoint, stopping, *([] if target is None else [target]), *clock],
            add_progbar=verbose != 0,
            model=model,
            verbose=1 if verbose == "auto" else verbose,
            epochs=config.epochs,
            steps=self._steps_per_epoch,
        )
        try:
            train(
                model,
                self._training_batches(checkpoint.position),
                steps_per_epoch=self._steps_per_epoch,
                epochs=config.epochs,
                callbacks=callback_list,
                checkpoint=checkpoint,
                guard=self._guard,
                workers=self.workers,
            )
        except NonFiniteError as error:
            raise NonFiniteError(
                f"{error} The last good checkpoint: {checkpoint.describe_saved()}. Lower "
                "--learning-rate or --beta, look at these images, or resume from the checkpoint "
                "with the same command and --on-nonfinite skip."
            ) from None

    def _describe_step(self, epoch: int, step: int) -> str:
        """Where in the training a step is, and which images it sees."""
        images = self.data.batch_indices(self.config, Position(epoch, step))
        return (
            f"at step {epoch * self._steps_per_epoch + step + 1} (epoch {epoch + 1}, step "
            f"{step + 1} of {self._steps_per_epoch}), whose batch has {len(images)} images of the "
            f"training set: {', '.join(map(str, images[:8]))}{', ...' if len(images) > 8 else ''}."
        )

    def _compiled_model(self) -> keras.Model:
        config = self.config
        model = self._new_model("mixed_bfloat16" if config.mixed_precision else "float32")
        if config.regularize != "never":
            model = with_penalty(model, config, fuse_plain_steps=True, allow_tf32=config.allow_tf32)
        # `loss` holds label smoothing, weight decay and penalty too.
        cross_entropy = keras.metrics.CategoricalCrossentropy("cross_entropy", from_logits=True)
        metrics = ["accuracy", cross_entropy]
        if self.data.top_k is not None:
            k = self.data.top_k
            metrics.append(keras.metrics.TopKCategoricalAccuracy(k, name=f"top{k}_accuracy"))
        model.compile(
            optimizer=keras.optimizers.SGD(
                config.learning_rate, momentum=config.momentum, nesterov=config.nesterov
            ),
            loss=keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=config.label_smoothing
            ),
            metrics=metrics,
            jit_compile=config.jit_compile,
        )
        model.optimizer.build(model.trainable_variables)
        return model

    def _new_model(self, dtype: str = "float32") -> keras.Model:
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype)
        try:
            model = models.ARCHITECTURES[self.config.model](
                input_shape=self.data.image_shape,
                num_classes=self.data.num_classes,
                weight_decay=self.config.weight_decay,
                seed=self.config.seed,
            )
        finally:
            keras.config.set_dtype_policy(before)
        model.get_layer("logits").dtype_policy = keras.DTypePolicy("float32")
        return model

    def _trained_weights(self) -> list[np.ndarray]:
        trained = self._model.model if self.config.regularize != "never" else self._model
        return trained.get_weights()

    def _callbacks(self) -> list[keras.callbacks.Callback]:
        config = self.config
        plan = TrainingPlan(
            recipe=config.recipe,
            learning_rate=config.learning_rate,
            epochs=config.epochs,
            patience=config.patience,
        )
        callbacks = [AverageReplicas()]
        if self.data.evaluation_batches("validation") is not None:
            callbacks.append(Validation(self._outcome.validation_logs))
        callbacks.append(LEARNING_RATE_SCHEDULES[config.schedule](plan))
        if config.regularize != "never":
            callbacks.append(BetaSchedule(config.regularize, beta=config.beta))
        if self.folder is not None:
            callbacks.append(TensorBoard(self.folder.logs_path, write_graph=False))
        return callbacks

    def _training_batches(self, start: Position) -> tf.data.Dataset:
        batches = self.data.training_batches(self.config, start=start, shard=self.workers.shard)
        return batches.map(self._one_hot)

    def _batch_spec(self) -> tuple[tf.TensorSpec, tf.TensorSpec]:
        size = self.config.batch_size
        return (
            tf.TensorSpec([size, *self.data.image_shape], tf.float32),
            tf.TensorSpec([size, self.data.num_classes], tf.float32),
        )

    def _one_hot(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return images, tf.one_hot(labels, self.data.num_classes)

    def _target_loss(self, checkpoint: Checkpoint) -> TargetLoss | None:
        config = self.config
        if config.target_loss is None and not config.kept_losses:
            return None

        def keep(level: float) -> None:
            folder = None
            if self.workers.is_chief:
                folder = RunFolder.claim(config.kept_at(level), **self._about)
            if self.workers.from_chief(b"kept" if folder and folder.is_complete else None):
                return
            if folder is not None:
                folder.write_history(checkpoint.rows)
            self._outcome.write(folder)

        return TargetLoss(config.target_loss, config.kept_losses, self._outcome.measured_loss, keep)

    def _finish(self, progress: bool) -> dict[str, Any]:
        skipped = {"skipped_steps": self._guard.skipped} if self._guard.counts else {}
        result = self._outcome.write(self.folder, progress=progress, **skipped)
        if self.folder is not None:
            self.folder.checkpoint_path.unlink()
        return result
