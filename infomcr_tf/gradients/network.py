"""The network up to its logits, without any effect on the model that it is read from.

Softmax at the end and BatchNorm in batch mode need another behaviour of a few layers than the
model's own. These layers are given it for the time of one call only (while a graph is traced), by
an attribute of the instance that hides the class's; everything runs in a `keras.StatelessScope`, so
no variable is ever assigned to. When the call ends, however it ends, the model is as it was.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.arguments import check_choice

BATCH_NORM_MODES = ("inference", "batch")

NOT_PER_EXAMPLE = (
    "`model` has no per-example gradients: in inference mode its output is random, or the output "
    "for one example depends on the others. Take out the layer that does this"
)

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

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if it is not built, has nothing trainable, or `batch_norm` is unknown.
    """

    def __init__(self, model: keras.Model, batch_norm: str = "inference") -> None:
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
        self._overrides = _without_softmax(model)
        batch_norms = [
            layer
            for layer in self.layers()
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        ]
        self.couples_examples = batch_norm == "batch" and bool(batch_norms)
        if self.couples_examples:
            self._overrides += [(layer, "call", _in_training(layer)) for layer in batch_norms]

    @property
    def sizes(self) -> list[int]:
        """The number of entries of each trainable variable; their sum is W."""
        return [int(np.prod(v.shape)) for v in self.variables]

    def layers(self) -> list[keras.layers.Layer]:
        """All layers at any depth, each once."""
        return list(self.model._flatten_layers())

    def logits(
        self, x: Any, recorder: contextlib.AbstractContextManager | None = None
    ) -> tf.Tensor:
        """Returns the logits [n, K], in the dtype that the network computes them in.

        Args:
            x: inputs, one tensor or a list, tuple or dict.
            recorder: a context to call the model in, see `Recorder`.
        """
        recorder = recorder or contextlib.nullcontext()
        with override(self._overrides), recorder, keras.StatelessScope():
            return self.model(x, training=False)

    def check_logits(self, x: Any) -> int:
        """Checks on one or two examples that the model gives logits, each example its own.

        Args:
            x: checked examples, one array or tensor or a structure of them.

        Returns:
            K, the number of classes.

        Raises:
            ValueError: see `check_logits`; also if the logits are random or, but for BatchNorm in
                batch mode, depend on the other examples.
        """
        last = len(keras.tree.flatten(x)[0]) - 1

        def logits_of(*indices: int) -> np.ndarray:
            chosen = keras.tree.map_structure(lambda leaf: tf.gather(leaf, indices), x)
            return self.logits(chosen).numpy()

        together = logits_of(0, last, 0)
        check_logits(together)
        # A batch is added up in another order: some roundings of the largest logit.
        tolerance = 1e3 * np.finfo(together.dtype).eps * np.abs(together).max()
        if not self.couples_examples:
            for row, index in zip(together, (0, last, 0), strict=True):
                if np.abs(row - logits_of(index)).max() > tolerance:
                    raise ValueError(NOT_PER_EXAMPLE)
        return together.shape[1]


@contextlib.contextmanager
def override(attributes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Gives instances other attributes, `(object, name, value)`, within the context."""
    missing = object()
    with TRACING:
        saved = [(o, name, o.__dict__.get(name, missing)) for o, name, _ in attributes]
        try:
            for o, name, value in attributes:
                # Past Keras' __setattr__, which would track the value as a part of the layer.
                o.__dict__[name] = value
            yield
        finally:
            for o, name, value in reversed(saved):
                if value is missing:
                    o.__dict__.pop(name, None)
                else:
                    o.__dict__[name] = value


def _in_training(layer: keras.layers.Layer) -> Callable:
    original = layer.call

    def call(*args: Any, **kwargs: Any) -> tf.Tensor:
        return original(*args, **{**kwargs, "training": True})

    return call


def _identity(inputs: tf.Tensor, *_: Any, **__: Any) -> tf.Tensor:
    return inputs


def _without_softmax(model: keras.Model) -> list[tuple[Any, str, Any]]:
    """The overrides that take a softmax away from the end of a model."""
    last = _last_operation(model)
    if isinstance(last, keras.layers.Softmax) or type(last).__name__ == "Softmax":
        return [(last, "call", _identity)]
    if getattr(last, "activation", None) is keras.activations.softmax:
        return [(last, "activation", keras.activations.linear)]
    return []


def _last_operation(model: keras.Model) -> Any:
    """The operation that makes the model's output; None where the model does not declare it."""
    last = model
    while isinstance(last, keras.Model):
        outputs = getattr(last, "outputs", None)
        if not outputs:
            return None
        last = outputs[0]._keras_history.operation
    return last


def check_logits(logits: tf.Tensor) -> None:
    """Refuses outputs that are no logits.

    Raises:
        ValueError: if the outputs are not [n, K] with K at least 2, not finite, or probabilities.
    """
    values = np.asarray(logits, np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(
            "`model` must have one output of shape [n, K], the logits of K >= 2 classes. "
            f"Received an output of shape: {values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("`model` gives NaN or infinite logits on these examples.")
    # Sums of float32 softmax outputs are 1 up to K roundings.
    tolerance = values.shape[1] * np.finfo(np.float32).eps
    if (values >= 0).all() and (np.abs(values.sum(axis=1) - 1) <= tolerance).all():
        raise ValueError(
            "`model` gives probabilities, and its logits cannot be found from its layers. "
            "End the model in a layer without softmax, or in a Softmax layer"
        )
