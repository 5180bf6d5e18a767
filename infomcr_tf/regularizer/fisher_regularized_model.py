"""Training with Algorithm 1 through Keras' own `compile` and `fit`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from infomcr_tf.arguments import check_argument, check_choice, check_integer, check_number
from infomcr_tf.precision import float32_precision
from infomcr_tf.regularizer import sub_batches
from infomcr_tf.regularizer.batch_sizes import CheckBatchSizes, LargestBatch
from infomcr_tf.regularizer.building import build_before_tracing
from infomcr_tf.regularizer.data_term import DATA_TERMS, resolve_data_term
from infomcr_tf.regularizer.graph_checks import graph_errors_as_value_errors
from infomcr_tf.regularizer.penalty import Perturbation
from infomcr_tf.regularizer.replicas import AverageReplicas, check_strategy, read
from infomcr_tf.regularizer.requirements import (
    check_layers,
    check_loss,
    check_model,
    check_stateless,
)
from infomcr_tf.regularizer.step import StepFinder, fused_train_step


@keras.saving.register_keras_serializable(package="infomcr_tf")
class FisherRegularizedModel(keras.Model):
    r"""Wraps a `keras.Model` to train it with the paper's regulariser (Algorithm 1).

    Every step minimises, over one batch B cut into M sub-batches B_i (Eq. 7),

        L(B, w) + beta R_alpha(w),    R_alpha(w) = 1/M sum_i [L(B_i, w) - L(B_i, w - alpha g_i)],

    with g_i = grad L(B_i, w) under stop_gradient; to first order it is alpha/M sum_i ||g_i||^2.
    L is the compiled loss (sample weights included); `model.losses` (L2, `add_loss`) is added to
    the clean loss alone. Each sub-batch goes through BatchNorm with its own statistics; moving
    averages and metrics see each batch once. The two evaluations of a sub-batch share their
    Dropout masks.

    ```python
    model = FisherRegularizedModel(my_model, beta=10.0)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=128, callbacks=[BetaSchedule("after-first-drop")])
    model.model.save("plain.keras")  # the wrapped model, which needs nothing of this package
    ```

    Source: Jia and Su, "Information-Theoretic Local Minima Characterization and Regularization",
    ICML 2020, section 6.

    Args:
        model: The model to train, with whatever inputs, outputs, layers and frozen parts. Stateful
            randomness must come from `keras.random` seed generators, as in Keras' layers.
        alpha: Step of the finite difference, above 0; the paper's 1e-4.
        beta: Weight of the penalty, >= 0. The attribute `beta` is a variable:
            `model.beta.assign(0.0)` or `BetaSchedule` switch the penalty off, and training is then
            Keras' own, bit for bit (see `fuse_plain_steps`).
        num_sub_batches: M over all replicas, a multiple of their number. What M leaves over of a
            batch counts in the clean loss only.
        data_term: "batch" computes L(B, w) in a pass of its own (3 gradient evaluations a step, as
            the authors do); "sub_batches" takes it from the sub-batches (2 evaluations; BatchNorm
            then normalises by sub-batch, and its moving averages take the mean of the sub-batches'
            statistics); "auto" is "sub_batches" where both are the same loss, else "batch".
        estimator: "finite_difference" (Algorithm 1), or "hessian_vector": the gradient
            alpha/M sum_i H_i g_i by double differentiation, another regulariser on ReLU networks.
        direction: "descent" (the paper), or "ascent": R_alpha = 1/M sum_i [L(B_i, w + alpha g_i) -
            L(B_i, w)], the same to first order (Karakida et al., "Understanding gradient
            regularization in deep learning", ICML 2023, which finds it the better of the two).
        every: Apply the penalty every k-th step only, multiplied by k (Liu et al., "Towards
            efficient and scalable sharpness-aware minimization", CVPR 2022, space SAM's second
            pass so).
        fraction: Share of the sub-batches, drawn anew every step, that the penalty is computed
            from: an unbiased estimate of R_alpha at a lower cost. At least one is used.
        fuse_plain_steps: Whether BatchNorm is computed by TensorFlow's fused kernel at `beta = 0`
            too: such a step takes less time than Keras' (docs/benchmarks.md), and equals it up to
            rounding instead of bit for bit.
        allow_tf32: Keep TensorFloat-32 on while the penalty acts. It rounds to 10 bits, which
            drowns the finite difference; off by default.
        **kwargs: `name`, `dtype` or `trainable`, as for any `keras.Model`.

    Attributes:
        model: The wrapped model.
        beta: Non-trainable scalar variable.
        initial_beta: The constructor's `beta`.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        alpha: float = 1e-4,
        beta: float = 10.0,
        num_sub_batches: int = 8,
        data_term: str = "auto",
        estimator: str = "finite_difference",
        direction: str = "descent",
        every: int = 1,
        fraction: float = 1.0,
        fuse_plain_steps: bool = False,
        allow_tf32: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.perturbation = Perturbation(alpha, estimator, direction)
        check_model(model, FisherRegularizedModel)
        check_choice("data_term", data_term, DATA_TERMS)
        self.model = model
        self.num_sub_batches = check_argument("num_sub_batches", num_sub_batches)
        self.data_term = data_term
        self.every = check_integer("every", every, minimum=1)
        self.fraction = check_number("fraction", fraction, above=0, maximum=1)
        self.fuse_plain_steps = fuse_plain_steps
        self.allow_tf32 = allow_tf32
        self.initial_beta = check_argument("beta", beta)
        self.beta = self.add_weight(
            name="beta",
            dtype="float32",
            trainable=False,
            initializer=keras.initializers.Constant(self.initial_beta),
        )
        self._offsets = keras.random.SeedGenerator() if self.fraction < 1 else None
        self._penalty_tracker = keras.metrics.Mean(name="fisher_penalty")
        self._norm_tracker = keras.metrics.Mean(name="mean_sub_batch_grad_norm")
        self._largest_batch = LargestBatch()
        self._is_testing = False
        self.built = model.built

    @property
    def output_names(self) -> list[str] | None:
        """The wrapped model's output names, by which losses and metrics may be given."""
        return getattr(self.model, "output_names", None)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Keras' own, the wrapped model's, and in training those of the penalty."""
        hidden = [self._largest_batch]
        if self._is_testing:
            hidden += [self._penalty_tracker, self._norm_tracker]
        # Keras leaves out those of a model inside a model.
        both = (*super().metrics, *self.model._metrics)
        return [one for one in both if all(one is not other for other in hidden)]

    def build(self, input_shape: Any) -> None:
        """Builds the wrapped model."""
        if not self.model.built:
            self.model.build(input_shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Calls the wrapped model."""
        return self.model(inputs, training=training)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Exports the wrapped model: for inference, that is all there is."""
        self.model.export(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the wrapped model serialized."""
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "alpha": self.perturbation.size,
            "beta": self.initial_beta,
            "num_sub_batches": self.num_sub_batches,
            "data_term": self.data_term,
            "estimator": self.perturbation.estimator,
            "direction": self.perturbation.direction,
            "every": self.every,
            "fraction": self.fraction,
            "fuse_plain_steps": self.fuse_plain_steps,
            "allow_tf32": self.allow_tf32,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FisherRegularizedModel":
        """Rebuilds the wrapper and the wrapped model."""
        model = keras.saving.deserialize_keras_object(config["model"])
        return cls(**{**config, "model": model})

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        *,
        jit_compile: Any = False,
        **kwargs: Any,
    ) -> None:
        """Configures training; arguments as in `keras.Model.compile`.

        Args:
            optimizer: Any Keras optimizer.
            loss: The data loss, which the penalty is taken of. Required.
            jit_compile: Off by default, "auto" included: XLA makes the step slower on a CPU.
            **kwargs: Passed on to Keras.

        Raises:
            ValueError: Without a loss; if M is not divisible by the number of replicas; if a layer
                computes in float16, bfloat16 or float8; with `data_term="sub_batches"` and a loss
                that is not averaged over the batch; with `jit_compile=True` or gradient
                accumulation under a distribution strategy.
        """
        check_loss(loss, self.data_term)
        if jit_compile == "auto":
            jit_compile = False
        optimizer = keras.optimizers.get(optimizer)
        check_layers(self.model, self.perturbation.estimator)
        if self._distribute_strategy is not None:
            check_strategy(self._distribute_strategy, self, optimizer, loss, jit_compile)
        super().compile(optimizer, loss, jit_compile=jit_compile, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a reloaded model as it was compiled when it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force: bool = False) -> None:
        """Makes the function `fit` calls: `plain_step` while `beta` is 0, else Algorithm 1.

        Two functions rather than the one with a `tf.cond` in it: TensorFlow's graph optimizer
        rounds differently where a branch lies between gradients and update, and then `beta = 0`
        would not be plain Keras to the last bit.

        Raises:
            ValueError: If a layer is a stateful recurrent one.
        """
        check_stateless(self.model)
        if self.train_function is not None and not force:  # type: ignore[has-type]
            return
        self.train_function = self.switch(
            self._make_function(self.plain_step),
            self._make_function(lambda data: self._step(data, self._is_due())),
        )

    def switch(self, plain: Callable[[Any], Any], regularized: Callable[[Any], Any]) -> Callable:
        """Returns the function that calls `plain` while `beta` is 0, else `regularized`."""

        def train_function(iterator: Any) -> Any:
            if read(self.beta) == 0:
                return plain(iterator)
            iterator = build_before_tracing(self, iterator)
            with graph_errors_as_value_errors(), float32_precision(self.allow_tf32):
                return regularized(iterator)

        return train_function

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains; arguments and result as in `keras.Model.fit`.

        The logs hold, besides Keras' own, `fisher_penalty` (R_alpha) and `mean_sub_batch_grad_norm`
        (the mean of ||g_i||^2), averaged over the epoch's regularised steps; 0 if there were none.
        `loss` is the clean loss, without beta R_alpha. `BetaSchedule` adds `beta` and
        `learning_rate`.

        Raises:
            ValueError: If `beta > 0` and all batches of arrays have fewer examples than M; later,
                if all batches of an epoch had, or the loss or the penalty is not finite.
        """
        if read(self.beta) > 0:
            count, held_out = self.num_sub_batches, kwargs.get("validation_split")
            sub_batches.check_batches(x, batch_size, count, held_out)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            own = [AverageReplicas(), CheckBatchSizes(self._largest_batch)]
            callbacks = [*own, *keras.tree.flatten(callbacks or [])]
        return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as in `keras.Model.evaluate`: without the penalty, also in validation."""
        with self._testing():
            return super().evaluate(*args, **kwargs)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One step of evaluation, as in Keras."""
        with self._testing():
            return super().test_step(data)

    @contextmanager
    def _testing(self) -> Iterator[None]:
        before, self._is_testing = self._is_testing, True
        try:
            yield
        finally:
            self._is_testing = before

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One step of Algorithm 1; with `beta` at 0, one step of plain Keras.

        Decides in the graph, for training loops of one's own; `fit` decides outside, as `switch`.
        """
        return self._step(data, (self.beta > 0) & self._is_due())

    def plain_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One step without the penalty: Keras' own, or with `fuse_plain_steps` a faster one."""
        return (fused_train_step if self.fuse_plain_steps else keras.Model.train_step)(self, data)

    def _is_due(self) -> Any:
        """Whether the penalty is to be applied at this step; a bool where that never changes."""
        return True if self.every == 1 else self.optimizer.iterations % self.every == 0

    def _clean_loss(self, x: Any, y: Any, sample_weight: Any) -> tuple[tf.Tensor, Any]:
        y_pred = self(x, training=True)
        return self.compute_loss(x, y, y_pred, sample_weight, training=True), y_pred

    def _step(self, data: Any, active: Any) -> dict[str, tf.Tensor]:
        if not self.trainable_variables:
            return self.plain_step(data)
        check_layers(self.model, self.perturbation.estimator)  # layers added since `compile` too
        batch = sub_batches.as_tensors(keras.utils.unpack_x_y_sample_weight(data))
        x, y, sample_weight = batch
        replicas = self.distribute_strategy.num_replicas_in_sync
        count = self.num_sub_batches // replicas
        finder = StepFinder(
            self.model,
            self.perturbation,
            variables=self.trainable_variables,
            optimizer=self.optimizer,
            data_loss=self._compile_loss,
            clean_loss=self._clean_loss,
            num_sub_batches=count,
            fraction=self.fraction,
            penalty_weight=self.beta * self.every,
            active=active,
            # Where a branch may leave the plain step, that must be Keras' own to the last bit.
            fused=active is True or self.fuse_plain_steps,
            offsets=self._offsets,
        )
        term = resolve_data_term(self.data_term, self.model, self.loss, count, batch)
        step = finder.batch(batch) if term == "batch" else finder.sub_batches(batch)
        examples = sub_batches.batch_length(x)
        self._loss_tracker.update_state(step.loss * replicas, sample_weight=examples)
        weight = tf.cast(active, step.penalty.dtype)
        self._penalty_tracker.update_state(step.penalty, sample_weight=weight)
        self._norm_tracker.update_state(step.squared_norm, sample_weight=weight)
        self._largest_batch.update_state(examples)
        self.optimizer.apply_gradients(finder.for_optimizer(step))
        return self.compute_metrics(x, y, step.y_pred, sample_weight=sample_weight)
