r"""The Gram matrix $\xi = J J^T$ of per-example gradients (Eq. 5 of the paper).

$J \in \mathbb{R}^{N' \times W}$ stacks $\nabla_w \ell(f_w(x_j), y_j)$. It is kept as unit rows
$\hat J$ and the logarithms of their lengths: $\ln|\xi| = 2 \sum_j \ln\|J_j\| +
\ln|\hat J \hat J^T|$, so neither saturated nor large gradients leave the range of numbers.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.arguments import check_choice, check_integer, check_number
from infomcr_tf.gradients.blocks import Block, inner_products
from infomcr_tf.gradients.examples import check_examples, take
from infomcr_tf.gradients.head import HeadOutput
from infomcr_tf.gradients.losses import make_head
from infomcr_tf.gradients.network import Network
from infomcr_tf.gradients.passes import METHODS, Pass, Plan


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
        model: a built Keras model with one output [n, K] of logits (or softmax of logits), unless
            `loss` is given.
        loss: whose gradients the rows are, see `make_head`.
        loss_weights: see `make_head`.
        batch_norm: "inference" or "batch", see `Network`.
        chunk_size: examples of one pass. In "batch" mode the examples that share statistics (10, as
            the authors, by default); in "inference" mode only memory and speed depend on it.
        normalize_logits: see `Head`.
        equalize_loss: see `Head`.
        method: how rows of J are computed. "auto": by layer rules from one batched forward and
            backward pass, and where a layer has no rule, or its rule does not hold, as
            "one_example": one ordinary gradient after the other. "jacobian":
            `tf.GradientTape.jacobian`, vectorised where TensorFlow can. In "batch" mode it is
            always "jacobian", where the model has a trainable BatchNorm layer.
        max_memory_bytes: bound on what is held of J and of the recorded activations at any time;
            more passes over the examples are made where it is too little. What TensorFlow itself
            needs, and one example or one variable that is larger, come on top.
        device: a TensorFlow device name to compute on; None leaves it to TensorFlow.

    Raises:
        ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        loss: Any = "auto",
        loss_weights: Any = None,
        batch_norm: str = "inference",
        chunk_size: int | None = None,
        normalize_logits: float | None = None,
        equalize_loss: float | None = None,
        method: str = "auto",
        max_memory_bytes: int = 2 * 1024**3,
        device: str | None = None,
    ) -> None:
        check_choice("method", method, METHODS)
        if chunk_size is not None:
            chunk_size = check_integer("chunk_size", chunk_size, minimum=1)
        self._head = make_head(
            model,
            loss,
            loss_weights=loss_weights,
            normalize_logits=normalize_logits,
            equalize_loss=equalize_loss,
        )
        self._network = Network(model, batch_norm, self._head)
        self._device = device
        self._settings = {
            "method": method,
            "chunk_size": chunk_size,
            "max_memory_bytes": int(check_number("max_memory_bytes", max_memory_bytes, minimum=1)),
        }
        self._plan = None

    @property
    def without_rule(self) -> list[str]:
        """Paths of the variables whose gradients are not computed by layer rules.

        Empty before the first examples: it is known only then.
        """
        return [] if self._plan is None else self._plan.without_rule

    def gram(self, x: Any, y: Any) -> GramMatrix:
        """Returns the Gram matrix of the examples.

        Raises:
            ValueError: if the examples do not fit the model, see `check_examples`.
        """
        x, y = check_examples(self._network.model, x, y, head=self._head)
        y = self._head.rows(y)
        x, y, passes = self._prepare(x, y)
        results = (self._run(part, x, y) for part in passes)
        if len(passes) == 1:  # what fits into the memory need not be computed again
            results = list(results)
        gram = self._assemble(*self._products(results, tf.float32))
        # Products in float32 move eigenvalues by at most about sqrt(n) roundings.
        n = len(gram.cosines)
        if n and gram.eigenvalues[0] < 1000 * np.sqrt(n) * np.finfo(np.float32).eps:
            if len(passes) > 1:
                results = (self._run(part, x, y) for part in passes)
            gram = self._assemble(*self._products(results, tf.float64))
        return gram

    def _products(
        self, results: Iterable[tuple[HeadOutput, dict[int, Block]]], dtype: tf.DType
    ) -> tuple[HeadOutput, np.ndarray]:
        heads, products = [], []
        for head, blocks in results:
            heads.append(head)
            with tf.device(self._device):
                products.append(inner_products(list(blocks.values()), dtype).numpy())
        products = np.sum(products, axis=0)
        if not np.isfinite(products).all():
            raise ValueError("`model` has NaN or infinite gradients on these examples.")
        # Every pass has the same head.
        return heads[0], products

    def _assemble(self, head: HeadOutput, products: np.ndarray) -> GramMatrix:
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
            epsilon=float(np.finfo(self._network.dtype.as_numpy_dtype).eps) / 2,
        )

    def row_blocks(self, x: Any, y: Any) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yields J in blocks of columns: `(columns, block [n, c], log_scales [n])`.

        The columns are those of the flattened and joined `model.trainable_variables`; the blocks
        come in any order. J[j, columns] is block[j] times e^log_scales[j], which may be too small
        for a float.
        """
        x, y = check_examples(self._network.model, x, y, head=self._head)
        y = self._head.rows(y)
        offsets = np.concatenate([[0], np.cumsum(self._network.sizes)])
        x, y, passes = self._prepare(x, y)
        for part in passes:
            head, blocks = self._run(part, x, y)
            for index, block in blocks.items():
                start = offsets[index]
                for columns in block.slices():
                    stop = start + columns.shape[1]
                    yield slice(start, stop), columns.numpy()[head.kept], head.log_norms[head.kept]
                    start = stop

    def _prepare(self, x: Any, y: np.ndarray) -> tuple[Any, tf.Tensor, list[Pass]]:
        """The examples as tensors, and the passes over them."""
        with tf.device(self._device):
            x = keras.tree.map_structure(tf.convert_to_tensor, x)
            y = tf.constant(y)
            if self._plan is None:
                two = take(x, slice(0, 2))
                self._network.check(x, y)
                self._plan = Plan(self._network, self._head, x=two, **self._settings)
            return x, y, self._plan.passes(x, y)

    def _run(self, part: Pass, x: Any, y: tf.Tensor) -> tuple[HeadOutput, dict[int, Block]]:
        """The head's output and the blocks of the variables of one pass, for all examples."""
        with tf.device(self._device):
            chunks = [slice(i, i + part.chunk_size) for i in range(0, len(y), part.chunk_size)]
            results = [part.function(take(x, chunk), y[chunk]) for chunk in chunks]
            head, blocks = tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *results)
        head = HeadOutput(*(values.numpy() for values in head))
        if not np.isfinite(head.losses).all():
            raise ValueError("`model` gives NaN or infinite logits on these examples.")
        return head, blocks


def gram_matrix(model: keras.Model, x: Any, y: Any, **settings: Any) -> np.ndarray:
    r"""Returns $\xi = J J^T$ [N', N'] in float64 (Eq. 5); J is never held whole.

    Args:
        model: a built Keras model with one output [n, K] of logits (or softmax of logits).
        x: examples, one array [N', ...] or a list, tuple or dict of arrays.
        y: integer labels [N'] or one-hot labels [N', K]; with a `loss`, its targets.
        **settings: see `GradientEngine`.
    """
    return GradientEngine(model, **settings).gram(x, y).xi


def per_example_jacobian(model: keras.Model, x: Any, y: Any, **settings: Any) -> np.ndarray:
    r"""Returns J [N', W], the gradient of each example's cross-entropy with respect to w.

    The columns are those of the flattened and joined `model.trainable_variables`.
    """
    engine = GradientEngine(model, **settings)
    blocks = sorted(engine.row_blocks(x, y), key=lambda block: block[0].start)
    return np.concatenate([np.exp(scales)[:, None] * block for _, block, scales in blocks], axis=1)
