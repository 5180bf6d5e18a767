r"""The Gram matrix $\xi = J J^T$ of per-example gradients (Eq. 5 of the paper).

$J \in \mathbb{R}^{N' \times W}$ stacks $\nabla_w \ell(f_w(x_j), y_j)$. It is kept as unit rows
$\hat J$ and the logarithms of their lengths: $\ln|\xi| = 2 \sum_j \ln\|J_j\| +
\ln|\hat J \hat J^T|$, so neither saturated nor large gradients leave the range of numbers.
"""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.arguments import check_argument, check_choice, check_number
from infomcr_tf.gradients.accumulation import Accumulation, identity_of, run_pass, slower
from infomcr_tf.gradients.examples import check_examples, take
from infomcr_tf.gradients.gram_result import GramMatrix, logdet_errors, pairs_to_refine
from infomcr_tf.gradients.head import HeadOutput
from infomcr_tf.gradients.kept import description, kept_with
from infomcr_tf.gradients.losses import make_head
from infomcr_tf.gradients.network import Network
from infomcr_tf.gradients.passes import METHODS, Pass, Plan

# Standard deviation of ln|xi|, in nats an example, up to which float32 products are good enough,
# and the number of examples up to which as much as of so many is.
LOGDET_TOLERANCE = 1e-5
_FEW = 100
_FLOAT32 = float(np.finfo(np.float32).eps) / 2


def logdet_tolerance(n: int) -> float:
    """The standard deviation of ln|xi| of n examples up to which float32 products are kept."""
    return LOGDET_TOLERANCE * max(n, _FEW)


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
        method: how rows of J are computed. "auto": from one batched forward and backward pass, and
            where a variable is used in a way that has no rule, or the result does not agree with
            ordinary gradients, as "one_example": one ordinary gradient after the other, in a loop
            inside the graph. A warning says for which layers. "jacobian":
            `tf.GradientTape.jacobian`, vectorised where TensorFlow can. In "batch" mode it is
            always "jacobian", where the model has a trainable BatchNorm layer.
        max_memory_bytes: bound on what is held of J and of the recorded activations at any time;
            more passes over the examples are made where it is too little. The Gram matrix itself,
            and what TensorFlow needs for one example, come on top.
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
            chunk_size = check_argument("chunk_size", chunk_size)
        self._head = make_head(
            model,
            loss,
            loss_weights=loss_weights,
            normalize_logits=normalize_logits,
            equalize_loss=equalize_loss,
        )
        self._network = Network(model, batch_norm, self._head)
        self._device = device
        self._settings: dict[str, Any] = {
            "method": method,
            "chunk_size": chunk_size,
            "max_memory_bytes": int(check_number("max_memory_bytes", max_memory_bytes, minimum=1)),
        }
        self._plans: dict[str, Plan] = {}
        self._told = False

    @property
    def without_rule(self) -> list[str]:
        """Paths of the variables whose gradients are computed one example after the other.

        Empty before the first examples: it is known only then.
        """
        indices = {i for plan in self._plans.values() for i in plan.without_rule}
        return [self._network.variables[i].path for i in sorted(indices)]

    @property
    def layer_sizes(self) -> dict[str, int]:
        """The number of weights of each layer that `gram(per_layer=True)` tells apart, by path."""
        sizes, groups = self._network.sizes, self._network.layer_indices()
        return {name: sum(sizes[i] for i in indices) for name, indices in groups.items()}

    def gram(
        self,
        x: Any,
        y: Any,
        *,
        per_layer: bool = False,
        state: str | os.PathLike | None = None,
        progress: bool = False,
        skip_checks: bool = False,
    ) -> GramMatrix:
        """Returns the Gram matrix of the examples, of any number.

        Inner products are computed in float32 and added in float64. Where their rounding, which is
        measured, may move ln|xi| by more than 0.00001 an example (and more than 0.001), those that
        matter are computed again in float64.

        Args:
            x: examples, one array [N', ...] or a list, tuple or dict of arrays.
            y: integer labels [N'] or one-hot labels [N', K].
            per_layer: give the Gram matrix of each layer, too. All inner products are then computed
                in float64, and a matrix of each layer is held.
            state: a file that keeps what has been computed, for computations of many minutes. The
                same call resumes from it after an interruption; it is removed at the end.
            progress: show a progress bar, where more than one pass over the examples is made.
            skip_checks: whether `x` and `y` are what `check_examples` returned.

        Raises:
            ValueError: if the examples do not fit the model, see `check_examples`.
        """
        if not skip_checks:
            x, y = check_examples(self._network.model, x, y, head=self._head)
        y = self._head.rows(y)
        with tf.device(self._device):
            tensors, labels, plan = self._prepare(x, y)
            layers = self._network.layer_numbers() if per_layer else None
            passes = plan.passes(tensors, labels)
            whole = plan.whole(tensors, labels, layers)
            self._tell(plan, passes, tensors, labels)
            tile = plan.tile(len(y))
            identity = ""
            if state is not None:
                about = (self._settings, description(self._head), tile, *([per_layer] * per_layer))
                identity = identity_of(self._network.model, x, y, about)
            sums = Accumulation(
                len(y), tile, state=state, identity=identity, progress=progress, layers=layers
            )
            if whole is None:
                sums.add(passes, tensors, labels)
            else:
                sums.take_whole(*whole(tensors, labels))
            if per_layer:
                gram = self._by_layer(sums)
            else:
                gram = self._refined(sums, passes, tensors, labels)
        sums.forget()
        return gram

    def _by_layer(self, sums: Accumulation) -> GramMatrix:
        """The Gram matrix and those of the layers, which add up to it."""
        assert sums.head is not None  # set with the products
        _check_finite(sums.products)
        whole = self._assemble(sums.head, sums.products.sum(axis=0), 0.0)
        layers = {
            name: self._assemble(sums.head, products, 0.0)
            for name, products in zip(self._network.layer_indices(), sums.products, strict=True)
        }
        return dataclasses.replace(whole, layers=layers)

    def _refined(self, sums: Accumulation, passes: list[Pass], x: Any, y: tf.Tensor) -> GramMatrix:
        """The Gram matrix, with the products in float64 that its determinant needs."""
        assert sums.head is not None  # set with the products
        _check_finite(sums.products)
        if self._epsilon < _FLOAT32:  # everything was in float64
            return self._assemble(sums.head, sums.products, 0.0)
        lengths = np.sqrt(np.diag(sums.products))
        safe = np.where(lengths > 0, lengths, 1)
        cosines = sums.products / safe[:, None] / safe
        # A zero gradient makes the determinant zero whatever the others are.
        cosines[np.diag_indices(len(safe))] = 1
        rounding = logdet_errors(cosines, sums.errors, sums.tiles, _FLOAT32)
        del cosines
        if rounding is not None:
            sums.products[np.diag_indices(len(safe))] /= 1 + rounding.shift
        pairs, left = pairs_to_refine(rounding, len(sums.tiles), logdet_tolerance(len(safe)))
        if pairs:
            sums.refine(passes, x, y, pairs)
        return self._assemble(sums.head, sums.products, left)

    @property
    def _epsilon(self) -> float:
        """Unit roundoff of the dtype that the network computes in."""
        return float(np.finfo(self._network.dtype.as_numpy_dtype).eps) / 2

    def _assemble(self, head: HeadOutput, products: np.ndarray, error: float) -> GramMatrix:
        lengths = np.sqrt(np.diag(products))
        safe = np.where(lengths > 0, lengths, 1)
        with np.errstate(divide="ignore"):
            log_norms = head.log_norms + np.log(lengths)
        kept = np.flatnonzero(head.kept)
        for row, length in zip(products, safe, strict=True):
            row /= length * safe  # the same for row and column, so that it stays symmetric
        cosines = products if len(kept) == len(products) else products[np.ix_(kept, kept)]
        return GramMatrix(
            cosines=cosines,
            log_norms=log_norms[kept],
            losses=head.losses,
            correct=head.correct,
            kept=kept,
            epsilon=self._epsilon,
            logdet_error=error,
        )

    def row_blocks(
        self, x: Any, y: Any, *, skip_checks: bool = False
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yields J in blocks of columns: `(columns, block [n, c], log_scales [n])`.

        The columns are those of the flattened and joined `model.trainable_variables`; the blocks
        come in any order. J[j, columns] is block[j] times e^log_scales[j], which may be too small
        for a float.
        """
        if not skip_checks:
            x, y = check_examples(self._network.model, x, y, head=self._head)
        y = self._head.rows(y)
        offsets = np.concatenate([[0], np.cumsum(self._network.sizes)])
        with tf.device(self._device):
            x, y, plan = self._prepare(x, y)
            passes = plan.passes(x, y)
            self._tell(plan, passes, x, y)
            tile = plan.tile(len(y))
            tiles = [slice(i, i + tile) for i in range(0, len(y), tile)]
        for part in passes:
            with tf.device(self._device):
                results = [run_pass(part, take(x, one), y[one]) for one in tiles]
            kept = [head.kept for head, _ in results]
            scales = np.concatenate([head.log_norms[head.kept] for head, _ in results])
            for k, piece in enumerate(part.pieces):
                start = offsets[piece.index] + piece.start
                for columns in zip(*(blocks[k].slices() for _, blocks in results), strict=True):
                    stop = start + columns[0].shape[1]
                    rows = [c.numpy()[keep] for c, keep in zip(columns, kept, strict=True)]
                    yield slice(start, stop), np.concatenate(rows), scales
                    start = stop

    def _prepare(self, x: Any, y: np.ndarray) -> tuple[Any, tf.Tensor, Plan]:
        """The examples as tensors, and the plan for their shape."""
        x = keras.tree.map_structure(tf.convert_to_tensor, x)
        y = tf.convert_to_tensor(y)
        shape = keras.tree.map_structure(lambda leaf: (leaf.shape[1:], leaf.dtype), x)
        key = repr((shape, min(len(y), 2)))
        if key not in self._plans:
            self._plans[key] = Plan(self._network, self._head, x=x, y=y, **self._settings)
        return x, y, self._plans[key]

    def _tell(self, plan: Plan, passes: list[Pass], x: Any, y: tf.Tensor) -> None:
        """Warns once of what is computed one example after the other though not asked for."""
        indices = plan.without_rule
        if self._told or not indices or self._settings["method"] != "auto":
            return
        if self._network.couples_examples:
            return
        self._told = True
        sizes = self._network.sizes
        share = sum(sizes[i] for i in indices) / sum(sizes)
        owners = [
            layer.name
            for layer in self._network.layers()
            if {id(v) for v in layer._trainable_variables}
            & {id(self._network.variables[i]) for i in indices}
        ]
        more = f" and {len(owners) - 5} more" if len(owners) > 5 else ""
        warnings.warn(
            f"The layers {owners[:5]}{more} ({share:.2%} of the trainable weights) use their "
            "variables in a way that has no rule, so these gradients are computed one example "
            f"after the other: {slower(passes, x, y)} "
            "`infomcr_tf.gradients.register_layer_rule` takes a rule for a layer.",
            UserWarning,
            stacklevel=4,
        )


def _check_finite(products: np.ndarray) -> None:
    if not np.isfinite(products).all():
        raise ValueError("`model` has NaN or infinite gradients on these examples.")


def gram_matrix(model: keras.Model, x: Any, y: Any, **settings: Any) -> np.ndarray:
    r"""Returns $\xi = J J^T$ [N', N'] in float64 (Eq. 5); J is never held whole.

    Graphs are kept with the model, so further calls do not trace again.

    Args:
        model: a built Keras model with one output [n, K] of logits (or softmax of logits).
        x: examples, one array [N', ...] or a list, tuple or dict of arrays.
        y: integer labels [N'] or one-hot labels [N', K]; with a `loss`, its targets.
        **settings: see `GradientEngine`.
    """
    with engine_of(model, **settings) as engine:
        return engine.gram(x, y).xi


def per_example_jacobian(model: keras.Model, x: Any, y: Any, **settings: Any) -> np.ndarray:
    r"""Returns J [N', W], the gradient of each example's cross-entropy with respect to w.

    The columns are those of the flattened and joined `model.trainable_variables`. Graphs are kept
    with the model, as by `gram_matrix`.
    """
    with engine_of(model, **settings) as engine:
        blocks = sorted(engine.row_blocks(x, y), key=lambda block: block[0].start)
    return np.concatenate([np.exp(scales)[:, None] * block for _, block, scales in blocks], axis=1)


def engine_of(
    model: keras.Model,
    *,
    loss: Any = "auto",
    loss_weights: Any = None,
    normalize_logits: float | None = None,
    equalize_loss: float | None = None,
    **settings: Any,
) -> contextlib.AbstractContextManager[GradientEngine]:
    """A context with the engine of these settings that is kept with a model."""
    head = make_head(
        model,
        loss,
        loss_weights=loss_weights,
        normalize_logits=normalize_logits,
        equalize_loss=equalize_loss,
    )
    return kept_with(
        model,
        ("GradientEngine", description(head), settings),
        lambda: GradientEngine(model, loss=head, **settings),
    )
