"""The network up to its logits, without any effect on the model that it is read from.

Softmax at the end and BatchNorm in batch mode need another behaviour of a few layers than the
model's own. These layers are given it for the time of one call only (while a graph is traced), by
an attribute of the instance that hides the class's; everything runs in a `keras.StatelessScope`, so
no variable is ever assigned to. When the call ends, however it ends, the model is as it was.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.arguments import check_choice
from infomcr_tf.gradients.full_precision import float32_overrides, refuse_half_precision
from infomcr_tf.gradients.head import HOW_TO_PASS

BATCH_NORM_MODES = ("inference", "batch")

NOT_PER_EXAMPLE = (
    "`model` has no per-example gradients: in inference mode its output is random, or the output "
    "for one example depends on the others. Take out the layer that does this"
)

# Examples whose outputs are looked at before they are called probabilities.
_MANY = 64
# Examples on which a loss is compared with itself on single examples.
_FEW = 8

# Two threads that trace the same model at once would see each other's overrides.
TRACING = threading.RLock()


class Network:
    """The map from inputs to logits of a Keras model, and its trainable variables w.

    Args:
        model: a built Keras model with one output [n, K]; where it ends in softmax, the logits are
            what the softmax is applied to.
        batch_norm: "inference" uses BatchNorm's moving averages; "batch" the statistics of the
            examples of the call, for the trainable BatchNorm layers. All other layers are in
            inference mode.
        head: what its outputs are for: a `LossHead` takes any outputs and makes rows of them;
            None and a `Head` want the logits of one softmax.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if it is not built, has nothing trainable, or `batch_norm` is unknown.
    """

    def __init__(self, model: keras.Model, batch_norm: str = "inference", head: Any = None) -> None:
        if not isinstance(model, keras.Model):
            raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
        check_choice("batch_norm", batch_norm, BATCH_NORM_MODES)
        if not model.built:
            raise ValueError("`model` must be built. Call it once on a batch, or `model.build()`")
        if not model.trainable_variables:
            raise ValueError(
                "`model` must have trainable variables. Received a model without any: set "
                "`trainable = True` on the layers to characterise"
            )
        self.model = model
        self.variables = list(model.trainable_variables)
        self._head = head
        self._overrides = float32_overrides(model)
        self._was_half = bool(self._overrides)
        self._in_training = [
            layer
            for layer in self.layers()
            if isinstance(layer, keras.layers.BatchNormalization)
            and layer.trainable
            and batch_norm == "batch"
        ]
        self.couples_examples = bool(self._in_training)

    @property
    def dtype(self) -> tf.DType:
        """The dtype it computes in: float64 if all its layers with weights do, else float32."""
        dtypes = {layer.compute_dtype for layer in self.layers() if layer.trainable_variables}
        return tf.float64 if dtypes == {"float64"} else tf.float32

    @property
    def sizes(self) -> list[int]:
        """The number of entries of each trainable variable; their sum is W."""
        return [int(np.prod(v.shape)) for v in self.variables]

    def layers(self) -> list[keras.layers.Layer]:
        """All layers at any depth, each once."""
        return list(self.model._flatten_layers())

    def layer_indices(self) -> dict[str, list[int]]:
        """Which of `variables` belong to which layer, by the layer's path, in their order.

        A variable that layers share belongs to the first. Layers of one path are numbered.
        """
        owners: dict[int, int] = {}
        for layer in self.layers():
            for variable in layer._trainable_variables:
                owners.setdefault(id(variable), id(layer))
        groups: dict[int, list[int]] = {}
        for index, variable in enumerate(self.variables):
            groups.setdefault(owners.get(id(variable), index), []).append(index)
        named: dict[str, list[int]] = {}
        for indices in groups.values():
            path = self.variables[indices[0]].path.rpartition("/")[0]
            path = path.removeprefix(f"{self.model.name}/") or self.model.name
            copies = sum(name.split("#")[0] == path for name in named)
            named[f"{path}#{copies + 1}" if copies else path] = indices
        return named

    def layer_numbers(self) -> list[int]:
        """For each of `variables` the number of its layer in `layer_indices`."""
        groups = self.layer_indices().values()
        numbers = {index: i for i, indices in enumerate(groups) for index in indices}
        return [numbers[index] for index in range(len(self.variables))]

    def logits(
        self,
        x: Any,
        values: list[tf.Tensor] | None = None,
        overrides: Sequence[tuple[Any, str, Any]] = (),
    ) -> tf.Tensor:
        """Returns the logits [n, K], or rows [n, D] of all outputs for a `LossHead`.

        Args:
            x: inputs, one tensor or a list, tuple or dict.
            values: what stands for `variables`; None are their own values.
            overrides: attributes of layers for the time of the call, see `override`.
        """
        mapping = [] if values is None else list(zip(self.variables, values, strict=True))
        # `layer.call` as it is now: perhaps a kernel of `normalization_kernels`.
        training = [(layer, "call", _in_training(layer.call)) for layer in self._in_training]
        chosen = [*self._overrides, *training, *overrides]
        with override(chosen), keras.StatelessScope(mapping):
            outputs = self.model(x, training=False)
            join = getattr(self._head, "join", _logits)
            return join(outputs)

    def check_logits(self, x: Any, logits: Callable | None = None) -> int:
        """Checks on one or two examples that the model gives what the head wants, for each alone.

        Args:
            x: checked examples, one array or tensor or a structure of them.
            logits: a faster form of the method `logits`.

        Returns:
            K, the number of classes, or D.

        Raises:
            ValueError: see `check_logits`; also if the logits are random or, but for BatchNorm in
                batch mode, depend on the other examples.
        """
        last = len(keras.tree.flatten(x)[0]) - 1
        logits = logits or self.logits

        def logits_of(*indices: int) -> np.ndarray:
            chosen = keras.tree.map_structure(lambda leaf: tf.gather(leaf, indices), x)
            return logits(chosen).numpy()

        together = logits_of(0, last, 0)
        self._check_outputs(x, together, logits)
        if self._was_half:
            refuse_half_precision(self.logits, x)
        # A batch is added up in another order: some roundings of the largest logit.
        tolerance = 1e3 * np.finfo(together.dtype).eps * np.abs(together).max()
        if not self.couples_examples:
            for row, index in zip(together, (0, last, 0), strict=True):
                if np.abs(row - logits_of(index)).max() > tolerance:
                    raise ValueError(NOT_PER_EXAMPLE)
        return together.shape[1]

    def check(self, x: Any, y: tf.Tensor, logits: Callable | None = None) -> None:
        """Checks model and loss on a few examples.

        Args:
            x: checked examples, as tensors.
            y: their labels, or rows of targets for a `LossHead`.
            logits: a faster form of the method `logits`.

        Raises:
            ValueError: see `check_logits`, and `LossHead.check`.
        """
        self.check_logits(x, logits)
        if not getattr(self._head, "has_classes", True):
            some = keras.tree.map_structure(lambda leaf: leaf[:_FEW], x)
            self._head.check((logits or self.logits)(some), y[:_FEW])

    def _check_outputs(self, x: Any, rows: np.ndarray, logits: Callable) -> None:
        head = self._head
        if not getattr(head, "has_classes", True):
            if not np.isfinite(rows).all():
                raise ValueError("`model` gives NaN or infinite outputs on these examples.")
            return
        trusted = getattr(head, "trusted", False)
        check_logits(rows, trusted=trusted)
        if not trusted and ((rows > 0) & (rows < 1)).all():
            some = keras.tree.map_structure(lambda leaf: leaf[:_MANY], x)
            rows = logits(some).numpy()
            if ((rows > 0) & (rows < 1)).all():
                raise ValueError(
                    "`model` must give logits or a softmax of them, unless `loss` is given. "
                    "Received: outputs that all lie between 0 and 1, as of a sigmoid. Pass the "
                    "`loss` it was trained with; if these are logits, "
                    "`keras.losses.SparseCategoricalCrossentropy(from_logits=True)`"
                )
        if getattr(head, "needs_softmax", False):
            one = keras.tree.map_structure(lambda leaf: leaf[:1], x)
            with override(self._overrides), keras.StatelessScope():
                output = self.model(one, training=False)
            if before_activation(output)[1] != "softmax":
                raise ValueError(
                    "`model` must end in softmax, for the loss that it was compiled with has "
                    "`from_logits=False`. Received: outputs of something else. If they are logits, "
                    'train with `from_logits=True`; `loss="compiled"` measures the loss as it is'
                )


@contextlib.contextmanager
def override(attributes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Gives instances other attributes, `(object, name, value)`, within the context."""
    missing = object()
    with TRACING:
        saved = [(o, name, o.__dict__.get(name, missing)) for o, name, _ in attributes]
        try:
            for o, name, value in attributes:
                # Written past Keras' __setattr__, which would track it as a part of the layer.
                o.__dict__[name] = value
            yield
        finally:
            for o, name, value in reversed(saved):
                if value is missing:
                    o.__dict__.pop(name, None)
                else:
                    o.__dict__[name] = value


def _in_training(original: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> tf.Tensor:
        return original(*args, **{**kwargs, "training": True})

    return call


def before_activation(output: tf.Tensor) -> tuple[tf.Tensor, str | None]:
    """What a softmax or sigmoid that Keras' losses look behind was applied to, and its name.

    Keras notes the logits with the output of these activations, and its cross-entropies use them in
    the place of the probabilities. Other outputs are returned as they are.
    """
    logits = getattr(output, "_keras_logits", None)
    if logits is not None:
        for name, function in (("softmax", tf.nn.softmax), ("sigmoid", tf.nn.sigmoid)):
            if hasattr(output, "numpy"):
                same = np.allclose(function(logits), output, rtol=1e-3, atol=1e-6)
            else:
                same = output.op.type == name.capitalize()
            if same:
                return logits, name
    return output, None


def _logits(output: Any) -> tf.Tensor:
    """The logits of a model that gives them, or their softmax."""
    if not tf.is_tensor(output):
        shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(output)]
        raise ValueError(
            "`model` must have one output of shape [n, K], the logits of K >= 2 classes. "
            f"Received outputs of shape: {shapes}. {HOW_TO_PASS}"
        )
    logits, activation = before_activation(output)
    if activation == "sigmoid":
        raise ValueError(
            "`model` must give logits or a softmax of them, unless `loss` is given. Received: a "
            'model that ends in sigmoid. Pass `loss="binary_crossentropy"`, if that is what it was '
            "trained with"
        )
    return logits


def check_logits(logits: tf.Tensor, *, trusted: bool = False) -> None:
    """Refuses outputs that are no logits.

    Args:
        logits: [n, K]
        trusted: somebody said that these are logits, whatever their values.

    Raises:
        ValueError: if the outputs are not [n, K] with K at least 2, not finite, or probabilities.
    """
    values = np.asarray(logits, np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(
            "`model` must have one output of shape [n, K], the logits of K >= 2 classes. "
            f"Received an output of shape: {values.shape}. {HOW_TO_PASS}"
        )
    if not np.isfinite(values).all():
        raise ValueError("`model` gives NaN or infinite logits on these examples.")
    if trusted:
        return
    # Sums of softmax outputs in half precision are 1 to this.
    if (values >= 0).all() and (np.abs(values.sum(axis=1) - 1) <= 1e-2).all():
        raise ValueError(
            "`model` gives probabilities, and what softmax was applied to cannot be found. End the "
            "model in logits or a Softmax layer, or pass its `loss`"
        )
