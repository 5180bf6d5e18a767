r"""The Gram matrix $\xi = J J^T$ of per-example gradients (Eq. 5 of the paper).

$J \in \mathbb{R}^{N' \times W}$ stacks $\nabla_w \ell(f_w(x_j), y_j)$. It is kept as unit rows
$\hat J$ and the logarithms of their lengths: $\ln|\xi| = 2 \sum_j \ln\|J_j\| +
\ln|\hat J \hat J^T|$, so neither saturated nor large gradients leave the range of numbers.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.characterization.examples import check_examples, num_examples, take
from infomcr_tf.characterization.head import Head
from infomcr_tf.characterization.jacobian import OneExampleGradients, TapeJacobian
from infomcr_tf.characterization.network import Network, check_logits

METHODS = ("auto", "one_example", "jacobian")


@dataclasses.dataclass(frozen=True)
class GramMatrix:
    r"""$\xi = J J^T$ of n examples, as cosines and logarithms of lengths.

    Attributes:
        cosines: [n, n] float64, $\hat J \hat J^T$ with unit rows $\hat J$; the row and column of a
            zero gradient are zero.
        log_norms: [n] float64, $\ln \|J_j\|$, -inf for a zero gradient.
        losses: [N'] float64, cross-entropy of all the examples given, of the model's own logits.
        correct: [N'] bool, which of them are classified correctly.
        kept: [n] indices of the rows among the N' examples given.
        epsilon: unit roundoff of the dtype that J was computed in.
    """

    cosines: np.ndarray
    log_norms: np.ndarray
    losses: np.ndarray
    correct: np.ndarray
    kept: np.ndarray
    epsilon: float

    @property
    def excluded(self) -> np.ndarray:
        """Indices of the examples left out, because `equalize_loss` has no temperature for them."""
        return np.setdiff1d(np.arange(len(self.losses)), self.kept)

    @property
    def xi(self) -> np.ndarray:
        r"""$\xi$ [n, n] float64; entries below about 1e-308 are zero."""
        return self.cosines * np.exp(np.add.outer(self.log_norms, self.log_norms))

    @functools.cached_property
    def eigenvalues(self) -> np.ndarray:
        """Eigenvalues [n] of `cosines`, ascending. Not those of `xi`."""
        return np.linalg.eigvalsh(self.cosines)

    @property
    def rank_tolerance(self) -> float:
        r"""Eigenvalues of `cosines` at most this large count as zero.

        An entry of $\hat J$ is known to within some roundings $\epsilon$ of its row's length, so a
        singular value of $\hat J$ that is zero appears as at most $\sqrt n c \epsilon$, and as an
        eigenvalue as the square of it; c = 32 allows for the layers that a gradient passes. The
        eigenvalues themselves are exact to n roundings of float64.
        """
        n = len(self.cosines)
        return n * max((32 * self.epsilon) ** 2, np.finfo(np.float64).eps * n)

    @property
    def rank(self) -> int:
        """The rank of `xi`: that of `cosines`, as rows and columns only differ in length."""
        return int((self.eigenvalues > self.rank_tolerance).sum())

    @property
    def logdet(self) -> float:
        r"""$\ln|\xi|$, natural logarithm; -inf where `rank` is below n."""
        if self.rank < len(self.cosines):
            return -np.inf
        return float(2 * self.log_norms.sum() + np.log(self.eigenvalues).sum())


class GradientEngine:
    """Computes Gram matrices of a model's per-example gradients; traced once, used often.

    Args:
        model: a built Keras model with one output [n, K] of logits (or softmax of logits).
        batch_norm: "inference" or "batch", see `Network`.
        chunk_size: examples of one pass. In "batch" mode the examples that share statistics (10, as
            the authors, by default); in "inference" mode only memory and speed depend on it.
        normalize_logits: see `Head`.
        equalize_loss: see `Head`.
        method: how rows of J are computed. "one_example": a vectorised gradient of one example.
            "jacobian": `tf.GradientTape.jacobian`. "auto": the fastest exact one.
        max_memory_bytes: bound on what is held of J and of the recorded activations at any time.
        device: a TensorFlow device name to compute on; None leaves it to TensorFlow.

    Raises:
        ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        batch_norm: str = "inference",
        chunk_size: int | None = None,
        normalize_logits: float | None = None,
        equalize_loss: float | None = None,
        method: str = "auto",
        max_memory_bytes: int = 2 * 1024**3,
        device: str | None = None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"`method` must be one of {METHODS}. Received: {method!r}")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"`chunk_size` must be at least 1. Received: {chunk_size}")
        self._head = Head(normalize_logits, equalize_loss)
        self._network = Network(model, batch_norm)
        self._device = device
        self._max_memory = max_memory_bytes
        coupled = self._network.couples_examples
        self._rows = TapeJacobian if coupled or method == "jacobian" else OneExampleGradients
        self._chunk_size = chunk_size or 10
        self._functions = {}

    def gram(self, x: Any, y: Any) -> GramMatrix:
        """Returns the Gram matrix of the examples."""
        x, y = check_examples(self._network.model, x, y)
        products = np.zeros((len(y), len(y)))
        for _, rows, head in self._column_blocks(x, y):
            for start in range(0, rows.shape[1], 65536):
                part = rows[:, start : start + 65536]
                products += part @ part.T
        lengths = np.sqrt(np.diag(products))
        safe = np.where(lengths > 0, lengths, 1)
        with np.errstate(divide="ignore"):
            log_norms = head.log_norms + np.log(lengths)
        kept = np.flatnonzero(head.kept)
        return GramMatrix(
            cosines=(products / np.outer(safe, safe))[np.ix_(kept, kept)],
            log_norms=log_norms[kept],
            losses=head.losses,
            correct=head.correct,
            kept=kept,
            epsilon=float(np.finfo(rows.dtype).eps) / 2,
        )

    def row_blocks(self, x: Any, y: Any) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yields J in blocks of columns: `(columns, block [n, c], log_scales [n])`.

        The columns are those of the flattened and joined `model.trainable_variables`. J[j, columns]
        is block[j] times e^log_scales[j], which may be too small for a float.
        """
        x, y = check_examples(self._network.model, x, y)
        for columns, rows, head in self._column_blocks(x, y):
            yield columns, rows[head.kept], head.log_norms[head.kept]

    def _column_blocks(self, x: Any, y: np.ndarray) -> Iterator:
        start = 0
        for group in self._groups(len(y)):
            parts, heads = [], []
            for first in range(0, len(y), self._chunk_size):
                chunk = slice(first, first + self._chunk_size)
                head, rows = self._run(group, take(x, chunk), y[chunk])
                parts.append(rows.numpy())
                heads.append([part.numpy() for part in head])
            head = type(head)(*(np.concatenate(part) for part in zip(*heads, strict=True)))
            rows = np.concatenate(parts)
            stop = start + rows.shape[1]
            yield slice(start, stop), rows, head
            start = stop

    def _groups(self, n: int) -> list[tuple[int, ...]]:
        """Runs of variables whose rows of n examples fit into the memory bound."""
        groups, used = [[]], 0
        for index, size in enumerate(self._network.sizes):
            need = 4 * n * size
            if groups[-1] and used + need > self._max_memory:
                groups.append([])
                used = 0
            groups[-1].append(index)
            used += need
        return [tuple(group) for group in groups]

    def _run(self, group: tuple[int, ...], x: Any, y: np.ndarray) -> tuple:
        if not self._functions:
            with tf.device(self._device):
                check_logits(self._network.logits(x))
        if group not in self._functions:
            variables = [self._network.variables[i] for i in group]
            rows = self._rows(self._network, self._head, variables)
            self._functions[group] = tf.function(rows, autograph=False)
        with tf.device(self._device):
            x = keras.tree.map_structure(tf.convert_to_tensor, x)
            return self._functions[group](x, tf.convert_to_tensor(y))


def gram_matrix(model: keras.Model, x: Any, y: Any, **settings: Any) -> np.ndarray:
    r"""Returns $\xi = J J^T$ [N', N'] in float64 (Eq. 5); J is never held whole.

    Args:
        model: a built Keras model with one output [n, K] of logits (or softmax of logits).
        x: examples, one array [N', ...] or a list, tuple or dict of arrays.
        y: integer labels [N'] or one-hot labels [N', K].
        **settings: see `GradientEngine`.
    """
    return GradientEngine(model, **settings).gram(x, y).xi


def per_example_jacobian(model: keras.Model, x: Any, y: Any, **settings: Any) -> np.ndarray:
    r"""Returns J [N', W], the gradient of each example's cross-entropy with respect to w.

    The columns are those of the flattened and joined `model.trainable_variables`.
    """
    blocks = [
        block * np.exp(scales)[:, None]
        for _, block, scales in GradientEngine(model, **settings).row_blocks(x, y)
    ]
    return np.concatenate(blocks, axis=1)
