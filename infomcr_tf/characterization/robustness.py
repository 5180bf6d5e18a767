"""The robustness metric: the input Jacobian of the softmax output (section 7.1).

`(1/N) sum_S ||J_x f(x)||_2^2` with f the softmax output and the spectral norm. The K rows of one
example's Jacobian are K vector-Jacobian products, and the squared spectral norm is the largest
eigenvalue of their K x K Gram matrix.

At the end of training a row is far too small for float32. As for the gradients with respect to w,
the network is only ever given unit cotangents, and the logarithms of their lengths are kept aside
in float64.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.arguments import check_number
from infomcr_tf.characterization.example_set import ArrayExamples, StreamedExamples
from infomcr_tf.characterization.settings import Settings
from infomcr_tf.gradients.examples import num_examples, take
from infomcr_tf.gradients.head import Head
from infomcr_tf.gradients.kept import description, kept_with
from infomcr_tf.gradients.loss_head import LossHead
from infomcr_tf.gradients.network import Network

# Examples in one pass (more do not make it faster), and between two steps of the progress bar.
BLOCK = 100
# Without classes, backward passes for a block of examples.
MAX_OUTPUTS = 4096


class UnavailableMetricError(ValueError):
    """A metric that a model does not have."""


class BatchBlock(NamedTuple):
    """One block of examples, read from a source that is streamed."""

    number: int
    x: Any
    labels: Any


class RobustnessBlocks:
    """Measures one block of examples after another on one device.

    Args:
        model: a built Keras model.
        examples: S.
        settings: which examples.
        head: how outputs are transformed.
        device: a TensorFlow device name, or None.
        max_memory_bytes: see `InputJacobian`.
    """

    TITLE = "robustness"

    def __init__(
        self,
        model: keras.Model,
        examples: ArrayExamples | StreamedExamples,
        settings: Settings,
        *,
        head: Head | LossHead,
        device: str | None,
        max_memory_bytes: int,
    ) -> None:
        self._examples = examples
        self._indices = np.arange(len(examples))
        if settings.num_robustness_examples is not None:
            generator = np.random.default_rng([settings.seed, 0, 2])
            size = settings.num_robustness_examples
            self._indices = np.sort(generator.choice(len(examples), size, replace=False))
        arguments: dict[str, Any] = {
            "head": head,
            "device": device,
            "max_memory_bytes": max_memory_bytes,
        }
        with kept_with(
            model,
            ("InputJacobian", description(arguments)),
            lambda: InputJacobian(model, **arguments),
        ) as jacobian:
            self._jacobian = jacobian

    @staticmethod
    def indices(settings: Settings, num_examples: int) -> range:
        """The blocks that cover the examples."""
        return range(-(-(settings.num_robustness_examples or num_examples) // BLOCK))

    def check(self) -> None:
        """Checks that the metric exists for this model, see `InputJacobian.check`."""
        self._jacobian.check(self._examples.first[0])

    def streamed(self, wanted: set[int]) -> Iterator["BatchBlock"]:
        """Yields the wanted blocks, in one pass over the examples."""
        assert isinstance(self._examples, StreamedExamples)
        blocks = self._examples.blocks(self._indices, BLOCK)
        return (BatchBlock(i, *block) for i, block in enumerate(blocks) if i in wanted)

    def __call__(self, block: "int | BatchBlock") -> list[float]:
        """Returns the number of values of a block, their mean and summed squared deviations."""
        if isinstance(block, BatchBlock):
            x, labels = block.x, block.labels
        else:
            x, labels = self._examples.take(self._indices[block * BLOCK : (block + 1) * BLOCK])
        values = self._jacobian.squared_norms(x, labels)
        if not len(values):
            return [0, 0.0, 0.0]
        mean = float(np.mean(values))
        return [len(values), mean, float(np.sum((values - mean) ** 2))]


def pool_blocks(blocks: list[list[float]]) -> tuple[float, float, int]:
    """Mean, standard deviation and number of all values from those of the blocks.

    The deviations are summed about each block's own mean, so nothing cancels.
    Where `equalize_loss` has left no example, mean and standard deviation are nan.
    """
    counts, means, squares = np.array(blocks, np.float64).T
    if not counts.sum():
        return math.nan, math.nan, 0
    mean = float(np.sum(counts * means) / np.sum(counts))
    variance = (np.sum(squares) + np.sum(counts * (means - mean) ** 2)) / np.sum(counts)
    return mean, float(np.sqrt(variance)), int(counts.sum())


class InputJacobian:
    """Squared spectral norms of the input Jacobian of the softmax output.

    BatchNorm is in inference mode whatever the other metrics use: with batch statistics an
    example's output is not a function of that example alone.

    Args:
        model: a built Keras model.
        head: a `Head`: f is the softmax of the logits that it has transformed. A `LossHead`: f are
            the outputs of the model, flattened and joined.
        max_memory_bytes: bound on the memory of the K rows of the examples of one pass.
        device: a TensorFlow device name to compute on; None leaves it to TensorFlow.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        head: Head | LossHead | None = None,
        max_memory_bytes: int = 2 * 1024**3,
        device: str | None = None,
    ) -> None:
        self._head = Head() if head is None else head
        self._network = Network(model, head=self._head)
        self._max_memory = int(check_number("max_memory_bytes", max_memory_bytes, minimum=1))
        self._device = device
        # TensorFlow counts tracings by code object and would warn of a second instance's; a partial
        # object has none.
        self._function = tf.function(functools.partial(self._row_products), autograph=False)
        self._num_outputs: int | None = None

    def check(self, x: Any) -> None:
        """Checks on a few examples, without tracing, that the metric exists for this model.

        Raises:
            UnavailableMetricError: where the output is not differentiable in an input, or is too
                large.
            ValueError: where it is not what the loss is for.
        """
        with tf.device(self._device):
            example = _floats(take(x, slice(0, 1)))
            leaves = keras.tree.flatten(example)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(leaves)
                logits = self._network.logits(example)
            self._network.check_logits(_floats(x))
            if any(gradient is None for gradient in tape.gradient(logits, leaves)):
                raise UnavailableMetricError(
                    "robustness needs a model whose output is differentiable in every input, and "
                    "one of them is not (integer tokens?)"
                )
            transformed, _ = self._head.transform(logits, tf.zeros([1], tf.int64))
        num_outputs = int(transformed.shape[1])
        if not self._head.has_classes and num_outputs > MAX_OUTPUTS:
            raise UnavailableMetricError(
                f"robustness takes a backward pass for each of at most {MAX_OUTPUTS} outputs of an "
                f"example, and this model has {num_outputs}"
            )
        self._num_outputs = num_outputs

    def squared_norms(self, x: Any, labels: np.ndarray) -> np.ndarray:
        """Returns `||J_x f(x_j)||_2^2`, float64 [n], without the examples that are not kept.

        Args:
            x: checked examples, one array [n, ...] or a structure of arrays.
            labels: int64 [n].

        Raises:
            ValueError: see `check`.
        """
        if self._num_outputs is None:
            self.check(x)
        n = num_examples(x)
        if not self._head.has_classes:
            labels = np.zeros(n, np.int64)
        size = self._pass_size(x, n)
        results = []
        for start in range(0, n, size):
            part = slice(start, start + size)
            with tf.device(self._device):
                products, log_norms, kept = self._function(_floats(take(x, part)), labels[part])
            results.append(_largest_eigenvalues(products.numpy(), log_norms.numpy())[kept.numpy()])
        return np.concatenate(results)

    def _pass_size(self, x: Any, n: int) -> int:
        inputs = sum(math.prod(leaf.shape[1:]) for leaf in keras.tree.flatten(x))
        # A row is held in float32 and, for the products, twice in float64.
        need = self._num_outputs * inputs * (4 + 8 + 8)
        return min(max(self._max_memory // need, 1), BLOCK, n)

    def _row_products(self, x: Any, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Products [n, K, K] of the rows without their scales, ln of the scales [n, K], kept [n].

        One forward pass and K backward passes in a loop, so that memory and graph do not grow
        with K.
        """
        leaves = keras.tree.flatten(x)
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(leaves)
            logits = self._network.logits(x)
        z = tf.cast(logits, tf.float64)
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as head_tape:
            head_tape.watch(z)
            transformed, kept = self._head.transform(z, labels)
        row_of = _rows_of_softmax if self._head.has_classes else _rows_of_outputs
        unit_row = row_of(transformed)
        row_dtype = tf.float64 if logits.dtype == tf.float64 else tf.float32

        def row(k: tf.Tensor, rows: tf.TensorArray, scales: tf.TensorArray) -> tuple:
            unit, log_norm = unit_row(k)
            pulled = head_tape.gradient(transformed, z, output_gradients=unit)
            length = tf.norm(pulled, axis=-1)
            unit = tf.cast(tf.math.divide_no_nan(pulled, length[:, None]), logits.dtype)
            gradients = tape.gradient(logits, leaves, output_gradients=unit)
            flat = [tf.cast(tf.reshape(g, [tf.shape(g)[0], -1]), row_dtype) for g in gradients]
            return (
                k + 1,
                rows.write(k, tf.concat(flat, axis=1)),
                scales.write(k, log_norm + tf.math.log(length)),
            )

        num_outputs = tf.shape(transformed)[1]
        rows = tf.TensorArray(row_dtype, size=num_outputs)
        scales = tf.TensorArray(tf.float64, size=num_outputs)
        _, rows, scales = tf.while_loop(
            lambda k, *_: k < num_outputs, row, (0, rows, scales), parallel_iterations=1
        )
        stacked = tf.cast(tf.transpose(rows.stack(), [1, 0, 2]), tf.float64)
        products = tf.matmul(stacked, stacked, transpose_b=True)
        return products, tf.transpose(scales.stack()), kept


def _floats(x: Any) -> Any:
    """Tensors that one can differentiate with respect to, also where images are integers."""

    def convert(leaf: np.ndarray) -> tf.Tensor:
        dtype = leaf.dtype if np.issubdtype(leaf.dtype, np.floating) else keras.config.floatx()
        return tf.convert_to_tensor(leaf, dtype)

    return keras.tree.map_structure(convert, x)


def _rows_of_softmax(z: tf.Tensor) -> Callable:
    return functools.partial(_softmax_row, tf.nn.log_softmax(z))


def _rows_of_outputs(outputs: tf.Tensor) -> Callable:
    """Row k of the identity."""
    n, size = tf.unstack(tf.shape(outputs))

    def row(k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.one_hot(tf.fill([n], k), size, dtype=tf.float64), tf.zeros([n], tf.float64)

    return row


def _softmax_row(log_p: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Row k of `diag(p) - p p^T`, `p_k (e_k - p)`: a unit vector [n, K] and ln of its length [n].

    `1 - p_k` is summed from the other classes, which is exact where p_k rounds to 1.
    """
    own = tf.range(tf.shape(log_p)[1]) == k
    log_others = tf.where(own, tf.constant(-math.inf, tf.float64), log_p)
    largest = tf.reduce_max(log_others, axis=-1)
    relative = tf.exp(log_others - largest[:, None])
    row = tf.where(own, tf.reduce_sum(relative, axis=-1, keepdims=True), -relative)
    length = tf.norm(row, axis=-1)
    return row / length[:, None], log_p[:, k] + largest + tf.math.log(length)


def _largest_eigenvalues(products: np.ndarray, log_scales: np.ndarray) -> np.ndarray:
    """The largest eigenvalue of each `diag(e^s) products diag(e^s)`, scaled to avoid underflow."""
    largest = log_scales.max(axis=1, keepdims=True)
    scales = np.exp(log_scales - np.where(np.isfinite(largest), largest, 0.0))
    scaled = scales[:, :, None] * products * scales[:, None, :]
    eigenvalues = np.linalg.eigvalsh(scaled)[:, -1]
    return np.maximum(eigenvalues, 0.0) * np.exp(2 * largest[:, 0])
