"""The data loss as a function of the weights, without side effects."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from infomcr_tf.normalization_kernels import check_second_derivatives, normalization_kernels
from infomcr_tf.regularizer.data_term import synchronized_layers
from infomcr_tf.regularizer.graph_checks import nodes_of
from infomcr_tf.regularizer.replicas import per_example_values


class Evaluation(NamedTuple):
    """What one evaluation of the loss gives back besides its value."""

    outputs: list[tf.Tensor]  # the predictions, flat, and their masks: see `pack`
    seeds: list[tf.Tensor]  # advanced
    state: list[tf.Tensor]  # of `assigned`: a float's change, the new value of any other


class FunctionalLoss:
    """`L(B, w)` evaluated at weights given as tensors, as the training step sees it.

    The model runs with `training=True`. Nothing outside changes: BatchNorm's moving averages,
    seeds, metrics and counters are handed back as tensors instead of being assigned, so the same
    batch can be evaluated at `w` and at `w - alpha g_i` with the same Dropout masks.

    Args:
        model: A built `keras.Model`.
        data_loss: A Keras loss, `(y, y_pred, sample_weight) -> loss`, without `model.losses`. Its
            entries are summed if there are several (`reduction=None`), as the gradient does in
            Keras. Keras divides it by the number of replicas; that is undone: `L` is local.

    Attributes:
        weights: The model's trainable variables.
        seeds: The states of its random generators; one evaluation advances them by one.
        assigned: After a first evaluation, the variables of the model that it assigns.
        reached: After a first gradient, whether the loss depends on each weight.
        has_added_losses: After a first evaluation, whether layers have added losses.
    """

    def __init__(self, model: keras.Model, data_loss: Callable[..., tf.Tensor]) -> None:
        self.model = model
        self.data_loss = data_loss
        self.weights = model.trainable_variables
        self.seeds = [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
        # A step evaluates the loss at w and at w - alpha g_i: one trace serves both.
        self._traced = tf.function(self._value_and_gradient, autograph=False)

    def __call__(
        self, weights: list[tf.Tensor], seeds: list[tf.Tensor], x: Any, y: Any, sample_weight: Any
    ) -> tuple[tf.Tensor, Evaluation]:
        """Evaluates the loss.

        Args:
            weights: Tensors like `self.weights`.
            seeds: Tensors like `self.seeds`.
            x: Inputs.
            y: Targets.
            sample_weight: Sample weights, or `None`.

        Returns:
            The scalar loss, and the predictions with the advanced seeds and updated state.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        scope = _Scope(zip(self.weights, weights, strict=True))
        for seed, value in zip(self.seeds, seeds, strict=True):
            scope.state_mapping[id(seed)] = value
        own, kernels = _own_statistics(self.model), normalization_kernels(self.model)
        whole = per_example_values(self.data_loss) if replicas > 1 else nullcontext()
        with kernels, own, whole, scope:
            y_pred = self.model(x, training=True)
            loss = self.data_loss(y, y_pred, sample_weight)
        loss = tf.reduce_sum(loss) * tf.cast(replicas, loss.dtype)
        if not tf.executing_eagerly():  # only in a graph can be seen what depends on what
            self._loss, self._updates = loss, scope.updates
        self.has_added_losses = bool(scope.losses)
        self._y_pred = keras.tree.map_structure(lambda _: 0, y_pred)
        self._are_masked = [mask_of(one) is not None for one in keras.tree.flatten(y_pred)]
        seeded = {id(seed) for seed in self.seeds}
        self.assigned = [
            v
            for v in (*self.model.variables, *self.model.metrics_variables)
            if id(v) in scope.assigned and id(v) not in seeded
        ]
        return loss, Evaluation(
            flat_outputs(y_pred),
            [tf.convert_to_tensor(scope.get_current_value(v)) for v in self.seeds],
            [scope.change(v) for v in self.assigned],
        )

    def value_and_gradient(
        self, weights: list[tf.Tensor], *args: Any
    ) -> tuple[tf.Tensor, list[tf.Tensor], Evaluation]:
        """Evaluates the loss and its gradient; arguments as for `__call__`."""
        evaluate = self._value_and_gradient if tf.executing_eagerly() else self._traced
        return evaluate(weights, *args)

    def check_second_derivatives(self, weights: list[tf.Tensor], *args: Any) -> None:
        """Raises `ValueError` where they are not those of the loss; arguments as for `__call__`."""
        check_second_derivatives(self._traced.get_concrete_function(weights, *args).graph)
        used = _ancestors(self._loss)
        for variable, value in self._updates:
            if value.ref() in used:
                raise ValueError(
                    "`estimator` must be 'finite_difference' with layers that use in training what "
                    "they assign there (SpectralNormalization): no derivative flows through it. "
                    f"Received: estimator='hessian_vector' and {variable.path!r}"
                )

    def example(self, *args: Any) -> Evaluation:
        """What an evaluation gives back, for its shapes and dtypes; arguments as for `__call__`.

        Raises:
            ValueError: If the model assigns variables that are not Keras' own.
        """
        if tf.executing_eagerly():
            return self(*args)[1]
        traced = self._traced.get_concrete_function(*args)
        _check_side_effects(traced.graph)
        return traced.structured_outputs[2]

    def _value_and_gradient(
        self, weights: list[tf.Tensor], *args: Any
    ) -> tuple[tf.Tensor, list[tf.Tensor], Evaluation]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss, evaluation = self(weights, *args)
        gradients = tape.gradient(loss, weights)
        self.reached = [g is not None for g in gradients]
        return loss, dense_gradients(gradients, weights), evaluation

    def read(self) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Returns the current weights and seeds as tensors."""
        weights, seeds = (
            [tf.convert_to_tensor(v.value) for v in variables]
            for variables in (self.weights, self.seeds)
        )
        return weights, seeds

    def pack(self, outputs: list[tf.Tensor]) -> Any:
        """Returns the predictions that `flat_outputs` has flattened, with their masks."""
        count = len(self._are_masked)
        masks = iter(outputs[count:])
        for y_pred, masked in zip(outputs[:count], self._are_masked, strict=True):
            if masked:
                y_pred._keras_mask = next(masks)
        return keras.tree.pack_sequence_as(self._y_pred, outputs[:count])


class _Scope(keras.StatelessScope):
    """Keeps the assignments of one evaluation.

    As for Keras' variables, no gradient flows through an assignment; what is assigned to a weight
    (SpectralNormalization) takes the weight's gradient, which is that with respect to this value.
    """

    def __init__(self, weights: Iterator[tuple[keras.Variable, tf.Tensor]]) -> None:
        pairs = list(weights)
        super().__init__(pairs, collect_losses=True)
        self.assigned: set[int] = set()
        self.updates: list[tuple[keras.Variable, tf.Tensor]] = []
        self._weights = {id(variable): value for variable, value in pairs}

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]) -> None:
        variable, value = update
        self.assigned.add(id(variable))
        weight = self._weights.get(id(variable))
        value = tf.stop_gradient(value)
        if weight is not None:
            value += weight - tf.stop_gradient(weight)
        self.updates.append((variable, value))
        super().add_update((variable, value))

    def change(self, variable: keras.Variable) -> tf.Tensor:
        """How far a float variable is from where it was; the value of any other."""
        value = tf.convert_to_tensor(self.get_current_value(variable))
        if not value.dtype.is_floating:
            return value
        return value - self._weights.get(id(variable), variable.value)


def mask_of(tensor: Any) -> tf.Tensor | None:
    """The mask that Keras' layers have put on a tensor."""
    return getattr(tensor, "_keras_mask", None)


def flat_outputs(y_pred: Any) -> list[tf.Tensor]:
    """Predictions as a flat list, followed by the masks of those that have one.

    A mask is an attribute, which a tensor loses on its way out of a loop or a function.
    """
    leaves = keras.tree.flatten(y_pred)
    return [*leaves, *(mask for mask in map(mask_of, leaves) if mask is not None)]


def times(factor: Any, tensor: tf.Tensor, divisor: Any = 1) -> tf.Tensor:
    """`factor / divisor * tensor` in the tensor's dtype, of numbers or scalar tensors."""
    if tf.is_tensor(factor) or tf.is_tensor(divisor):
        factor, divisor = tf.cast(factor, tensor.dtype), tf.cast(divisor, tensor.dtype)
    return factor / divisor * tensor


def add(
    total: list[tf.Tensor], tensors: list[tf.Tensor], factor: Any = None, divisor: Any = 1
) -> list[tf.Tensor]:
    """`total + factor / divisor * tensors`; a counter (any integer) takes the new value."""
    return [
        (a + (b if factor is None else times(factor, b, divisor))) if b.dtype.is_floating else b
        for a, b in zip(total, tensors, strict=True)
    ]


def dense_gradients(gradients: list[Any], sources: list[Any]) -> list[tf.Tensor]:
    """Gradients as dense tensors: zeros where unconnected, embeddings' slices summed.

    Their shapes are known, which they are not after every operation (CTC).
    """
    dense = [
        tf.zeros(source.shape, source.dtype) if g is None else tf.convert_to_tensor(g)
        for g, source in zip(gradients, sources, strict=True)
    ]
    return [
        g if g.shape.is_fully_defined() else tf.ensure_shape(g, source.shape)
        for g, source in zip(dense, sources, strict=True)
    ]


def _ancestors(tensor: tf.Tensor) -> set:
    """References to all tensors of a graph from which one of it is computed, itself included."""
    stack, seen = [tensor], {tensor.ref()}
    while stack:
        new = [one for one in stack.pop().op.inputs if one.ref() not in seen]
        seen.update(one.ref() for one in new)
        stack += new
    return seen


def _check_side_effects(graph: tf.Graph) -> None:
    """Refuses a traced function that assigns variables of TensorFlow."""
    for node in nodes_of(graph):
        if node.op.startswith(("Assign", "ResourceScatter")):
            raise ValueError(
                "`model` must hold what it assigns in training in Keras' variables "
                "(`self.add_weight(..., trainable=False)`): the penalty evaluates the model many "
                "times, and a `tf.Variable` would be assigned in each. "
                f"Received: an assignment in {node.name.rpartition('/')[0] or node.name}"
            )


@contextmanager
def _own_statistics(model: keras.Model) -> Iterator[None]:
    """Keeps synchronized BatchNorm layers from exchanging a sub-batch's statistics."""
    layers = synchronized_layers(model)
    for layer in layers:
        layer.synchronized = False
    try:
        yield
    finally:
        for layer in layers:
            layer.synchronized = True
