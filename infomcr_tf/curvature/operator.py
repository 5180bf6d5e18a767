"""What the curvature matrices have in common: a product with vectors, streamed over the data."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.sparse.linalg import LinearOperator

from infomcr_tf.curvature.example_stream import ExampleStream
from infomcr_tf.device_pool import resolve_devices
from infomcr_tf.gradients.losses import describe, make_head
from infomcr_tf.gradients.network import TRACING, Network
from infomcr_tf.normalization_kernels import normalization_kernels
from infomcr_tf.precision import float32_precision

# A factor of the losses must stay far inside of float32.
_LARGEST_SCALE = 2.0**64
# Logits of two passes differ by roundings where a GPU adds up in another order; a loss near zero is
# their exponential. What is random differs by more.
_LOSS_TOLERANCE = 1e-3

_FEW = 8  # examples on which a model is checked


class CurvatureOperator(LinearOperator):
    r"""A symmetric matrix $A = \frac{1}{N} \sum_n A_n \in R^{W \times W}$ that is never formed.

    Rows and columns are the entries of `model.trainable_variables`, flattened and joined in their
    order; frozen weights are left out. A product streams the examples in batches, computes in the
    model's own precision (float32 without TensorFloat-32, or float64), and adds up in float64. It
    is that of the weights and data which the operator was made with: where either has changed, a
    product is refused. The model itself is never changed.

    As a `scipy.sparse.linalg.LinearOperator` of dtype float64 it works with scipy's solvers:
    `operator @ v` for v [W] or, in one pass over the data, [W, k].

    Args:
        model: a built Keras model; with `loss="auto"` one that ends in logits [n, K] or a softmax
            of them.
        x: examples, as for `characterize`; or, with `y` None, a finite source of batches (x, y): a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or a function that returns an iterator.
        y: integer labels [N], or one-hot or soft labels [N, K] of which the largest counts; the
            targets of another `loss`.
        loss: "auto" is the cross-entropy; another one as for `characterize`: "compiled", a Keras
            loss or its name, a list or dict of these, or a function `(y, y_pred) -> [n]`.
        loss_weights: of several outputs, as in `compile`.
        batch_size: examples of a batch; does not change the matrix, except in "batch" mode.
        batch_norm: "inference" (moving averages) or "batch": trainable BatchNorm layers use the
            statistics of each batch, differentiated through. Other layers are in inference mode.
        devices: names of devices to spread the batches over; default all GPUs.

    Attributes:
        network: the `Network` that is differentiated.

    Raises:
        TypeError: where `model` is not a Keras model, or `x` no data.
        ValueError: where an argument or the data do not fit, the outputs are no logits or random,
            or the data differ from pass to pass.
    """

    # The matrix is homogeneous of this degree in the losses.
    _degree = 1

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        *,
        loss: Any = "auto",
        loss_weights: Any = None,
        batch_size: int = 100,
        batch_norm: str = "inference",
        devices: Sequence[str] | None = None,
    ) -> None:
        self._head = make_head(model, loss, loss_weights=loss_weights)
        self.network = Network(model, batch_norm, self._head)
        self._devices = resolve_devices(devices)
        self._examples = ExampleStream(model, x, y, batch_size, self._head)
        self._weights = self._weights_digest()
        self._loss: float | None = None
        size = sum(self.network.sizes)
        super().__init__(np.dtype(np.float64), (size, size))
        assert self._examples.first is not None  # reading the first example sets it
        first, first_y = self._examples.first
        self.network.check(keras.tree.map_structure(tf.constant, first), tf.constant(first_y))
        self._check_repeatable(first)
        signature = keras.tree.map_structure(_any_length, self._examples.first)
        self._function = tf.function(
            self._traceable,
            input_signature=(*signature, tf.TensorSpec([size], tf.float64)),
            autograph=False,
        )
        with TRACING:
            self._check_function()

    def with_examples(self, x: Any, y: Any = None, *, batch_size: int = 100) -> "CurvatureOperator":
        """The matrix of other examples and of the model's present weights, traced no second time.

        Arguments are those of the class; the inputs must have the same form.
        """
        other = copy.copy(self)
        other._examples = ExampleStream(self.network.model, x, y, batch_size, self._head)
        other._weights, other._loss = self._weights_digest(), None
        return other

    # ---- what scipy calls ---------------------------------------------------------------------

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        return self._matmat(np.reshape(v, [-1, 1]))[:, 0]

    def _matmat(self, V: np.ndarray) -> np.ndarray:
        V = np.asarray(V, np.float64)
        if not np.isfinite(V).all():
            raise ValueError("a vector must be finite. Received: NaN or infinite entries")
        # Float32 inside: neither very small nor very large vectors may leave its range.
        scale = np.abs(V).max(axis=0)
        scale[scale == 0] = 1.0
        columns = [tf.constant(column) for column in (V / scale).T]
        total = np.zeros(V.shape)
        loss = 0.0

        def products(batch: tuple) -> list[tuple]:
            return [self._function(*batch, column) for column in columns]

        for results in self.over_batches(products):
            for index, (_, product) in enumerate(results):
                total[:, index] += product.numpy()
            loss += sum(float(batch_loss) for batch_loss, _ in results) / max(1, len(results))
        if columns:
            self._check_loss(loss)
        return total * (scale / self._examples.num_examples)

    def _adjoint(self) -> "CurvatureOperator":
        return self

    _transpose = _adjoint

    # ---- data and weights ---------------------------------------------------------------------

    def over_batches(self, work: Callable[[tuple], Any]) -> Iterator[Any]:
        """Yields `work((x, y))` for all batches in their order, spread over the devices.

        Raises:
            ValueError: where weights or data have changed since the operator was made.
        """
        if self._weights_digest() != self._weights:
            raise ValueError(
                "`model` must have the weights that the operator was made with. Received: a model "
                "whose weights have changed. Make a new operator"
            )

        def on_device(task: tuple) -> Any:
            device, batch = task
            with tf.device(device):
                return work(keras.tree.map_structure(tf.constant, batch))

        batches = iter(self._examples)
        # TensorFloat-32 would leave three digits.
        with float32_precision(), ThreadPoolExecutor(len(self._devices)) as pool:
            while group := list(islice(batches, len(self._devices))):
                tasks = list(zip(self._devices, group, strict=False))
                yield from pool.map(on_device, tasks) if len(tasks) > 1 else map(on_device, tasks)

    def fingerprint(self) -> str:
        """Identifies the matrix: its kind, weights, data and settings."""
        parts = [
            type(self).__name__,
            self._weights,
            self._examples.fingerprint(),
            str(self.network.couples_examples),
            describe(getattr(self._head, "loss", "auto")),
            *(variable.path for variable in self.network.variables),
        ]
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def _weights_digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for variable in self.network.model.variables:
            digest.update(np.ascontiguousarray(variable.numpy()).data)
        return digest.hexdigest()

    def _check_loss(self, loss: float) -> None:
        if self._loss is None:
            self._loss = loss
        elif abs(loss - self._loss) > _LOSS_TOLERANCE * abs(self._loss):
            raise ValueError(
                "`model` must give the same losses in every pass. Received: "
                f"{self._loss:.8g} in the first and {loss:.8g} in a later one. Take out the layer "
                "that is random in inference mode"
            )

    # ---- the function of one batch ------------------------------------------------------------

    def _traceable(self, x: Any, y: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The sums of the losses and of A_n v over the examples of a batch, in float64."""
        parts, losses, scale = self._product(x, y, self._split(v))
        product = tf.concat([tf.cast(tf.reshape(p, [-1]), tf.float64) for p in parts], axis=0)
        return tf.reduce_sum(losses) / scale, product / scale**self._degree

    def _product(
        self, x: Any, y: tf.Tensor, v: list[tf.Tensor]
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """The sum of A_n v for each variable, of the scaled losses, with these and their scale."""
        raise NotImplementedError

    def _logits(self, x: Any) -> tf.Tensor:
        # Keras' own normalisation layers have wrong second derivatives.
        with normalization_kernels(self.network.model):
            return self.network.logits(x)

    def _scaled_losses(self, logits: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The losses [n] times a constant that gives their largest gradient the size 1.

        Losses of 1e-30 have gradients that float32 holds, and products of these that it does not.
        """
        outputs = tf.cast(logits, tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            losses = self._head.losses(outputs, y)
        largest = tf.reduce_max(tf.abs(tf.stop_gradient(tape.gradient(losses, outputs))))
        scale = tf.minimum(tf.where(largest > 0, 1.0 / largest, 1.0), _LARGEST_SCALE)
        return losses * scale, scale

    def _check_repeatable(self, x: Any) -> None:
        some = keras.tree.map_structure(lambda leaf: tf.constant(leaf[:_FEW]), x)
        once, again = (self.network.logits(some).numpy() for _ in range(2))
        differs = np.abs(once - again).max() > 1e3 * np.finfo(once.dtype).eps * np.abs(once).max()
        # Keras' own random numbers come back the same: look for seeds that are drawn from.
        with keras.StatelessScope() as scope:
            self.network.model(some, training=False)
        known = {id(v) for v in self.network.model.variables if v.name != "seed_generator_state"}
        if differs or set(scope.state_mapping) - known:
            raise ValueError(
                "`model` must give the same outputs twice. Received: a model that is random in "
                "inference mode. Take out the layer that does this"
            )

    def _check_function(self) -> None:
        """Refuses, on a few examples, what would make wrong products."""

    def _values(self) -> list[tf.Variable]:
        return [variable.value for variable in self.network.variables]

    def _split(self, v: tf.Tensor) -> list[tf.Tensor]:
        parts = tf.split(v, self.network.sizes)
        return [
            tf.cast(tf.reshape(part, variable.shape), variable.dtype)
            for part, variable in zip(parts, self.network.variables, strict=True)
        ]


def _any_length(leaf: np.ndarray) -> tf.TensorSpec:
    return tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype)
