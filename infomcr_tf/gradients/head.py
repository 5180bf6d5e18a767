r"""From logits to the per-example cross-entropy and its gradient, in float64 and in closed form.

With $p = \mathrm{softmax}(z)$ and label $y$ the cross-entropy is $\ell = -\ln p_y$ and its gradient
with respect to the logits is $c = p - e_y$. On a trained network $1 - p_y$ is far below the
rounding error of $p_y$, so $c$ is built from the other classes alone,
$-c_y = 1 - p_y = \sum_{k \ne y} p_k$, relative to the largest of them, and handed on as a unit
vector $c / \|c\|$ and $\ln \|c\|$. The network then only ever sees unit vectors, and
$\ln \|J_j\| = \ln \|c_j\| + \ln \|(\partial z_j / \partial w)^T c_j / \|c_j\|\|$ neither under- nor
overflows, however small the loss.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from infomcr_tf.arguments import check_argument

HOW_TO_PASS = (
    'Pass `loss="compiled"` (`--loss compiled`), a Keras loss or its name (a dict or list of them '
    "for several outputs), or a function `(y, y_pred) -> [n]` of each example's loss"
)
# Each step halves the bracket: its width reaches the spacing of float64.
_BISECTIONS = 60


class HeadOutput(NamedTuple):
    """What the head knows about n examples, float64.

    Attributes:
        losses: [n] cross-entropy of the model's own logits.
        correct: [n] bool, the label's logit is strictly the largest.
        unit_cotangents: [n, K] gradient of the (transformed) cross-entropy with respect to the
            model's own logits, divided by its norm; zero where the gradient is exactly zero.
        log_norms: [n] natural logarithm of that norm, -inf where the gradient is exactly zero.
        kept: [n] bool, False where `equalize_loss` has no temperature for the example.
    """

    losses: tf.Tensor
    correct: tf.Tensor
    unit_cotangents: tf.Tensor
    log_norms: tf.Tensor
    kept: tf.Tensor


class Head:
    r"""The cross-entropy of (transformed) logits.

    Args:
        normalize_logits: $s$; logits become $z / (\|z\| s)$, differentiated through (the authors
            use 0.04 in section 7.2.3 of the paper). None leaves them alone.
        equalize_loss: $L$ with $0 < L < \ln 2$; every example's (normalised) logits are multiplied
            by its own positive temperature, a constant for differentiation, such that its
            cross-entropy is exactly $L$. A wrongly classified example has a cross-entropy of at
            least $\ln 2$ at every temperature, so it has none and is not `kept`.
        trusted: whether somebody said that the outputs are logits, whatever they look like.
        needs_softmax: whether the model was compiled with a loss that takes probabilities.

    Raises:
        ValueError: if `normalize_logits` is not a positive number or `equalize_loss` is not
            between 0 and ln 2.
    """

    has_classes = True

    def __init__(
        self,
        normalize_logits: float | None = None,
        equalize_loss: float | None = None,
        *,
        trusted: bool = False,
        needs_softmax: bool = False,
    ) -> None:
        self.normalize_logits = (
            None
            if normalize_logits is None
            else check_argument("normalize_logits", normalize_logits)
        )
        self.equalize_loss = (
            None if equalize_loss is None else check_argument("equalize_loss", equalize_loss)
        )
        self.trusted = trusted
        self.needs_softmax = needs_softmax

    def transform(self, logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the transformed logits z' [n, K] in float64 and which examples are kept [n].

        Gradients flow through the normalisation and not through the temperature. Rows that are
        not kept are normalised only.
        """
        z = tf.cast(logits, tf.float64)
        if self.normalize_logits is not None:
            z = z / (tf.norm(z, axis=-1, keepdims=True) * self.normalize_logits)
        if self.equalize_loss is None:
            return z, tf.ones(tf.shape(z)[:1], tf.bool)
        temperature, kept = self._temperature(tf.stop_gradient(z), labels)
        return z * temperature[:, None], kept

    def rows(self, y: np.ndarray) -> np.ndarray:
        """Returns labels as they are; see `LossHead.rows`."""
        return y

    def losses(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Returns the cross-entropies [n] float64 of the logits as they are, differentiable."""
        return cross_entropy(tf.cast(logits, tf.float64), labels)[0]

    def __call__(self, logits: tf.Tensor, labels: tf.Tensor) -> HeadOutput:
        """Returns the losses and the cotangents of n examples.

        Args:
            logits: [n, K], any floating dtype.
            labels: [n] integers.
        """
        z = tf.cast(logits, tf.float64)
        losses, correct = cross_entropy(z, labels)
        with tf.GradientTape() as tape:
            tape.watch(z)
            transformed, kept = self.transform(z, labels)
        unit, log_norms = _cotangent(transformed, labels)
        if self.normalize_logits is not None or self.equalize_loss is not None:
            pulled = tape.gradient(transformed, z, output_gradients=unit)
            unit, log_factor = unit_rows(pulled)
            log_norms += log_factor
        return HeadOutput(losses, correct, unit, log_norms, kept)

    def _temperature(self, z: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        r"""Solves $\ln(1 + \sum_{k \ne y} e^{-\tau (z_y - z_k)}) = L$ for $\tau > 0$ by bisection.

        With $m$ the smallest margin $z_y - z_k$ the sum lies between $e^{-\tau m}$ and
        $(K - 1) e^{-\tau m}$, which brackets the root in closed form.
        """
        assert self.equalize_loss is not None  # or there would be no temperature
        log_target = tf.constant(math.log(math.expm1(self.equalize_loss)), tf.float64)
        others = _others(z, labels)
        margins = _at_label(z, labels)[:, None] - others
        smallest = tf.reduce_min(margins, axis=-1)
        kept = smallest > 0
        safe = tf.where(kept, smallest, 1.0)
        margins = tf.where(kept[:, None], margins, 1.0)
        low = -log_target / safe
        high = (tf.math.log(tf.cast(tf.shape(others)[1], tf.float64)) - log_target) / safe

        def halve(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            middle = 0.5 * (low + high)
            above = tf.reduce_logsumexp(-middle[:, None] * margins, axis=-1) > log_target
            return tf.where(above, middle, low), tf.where(above, high, middle)

        low, high = tf.while_loop(
            lambda *_: True, halve, (low, high), maximum_iterations=_BISECTIONS
        )
        return tf.where(kept, 0.5 * (low + high), 1.0), kept


def _at_label(z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.gather(z, labels, axis=1, batch_dims=1)


def _others(z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The logits of the K - 1 other classes, [n, K - 1]."""
    num_classes = tf.shape(z)[1]
    labels = tf.cast(labels, tf.int32)[:, None]
    columns = tf.range(num_classes - 1)[None]
    return tf.gather(z, columns + tf.cast(columns >= labels, tf.int32), axis=1, batch_dims=1)


def cross_entropy(z: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """-ln p_y = ln(1 + sum of e^(z_k - z_y)), accurate where p_y rounds to 1, and p_y > all p_k."""
    others = _others(z, labels)
    own = _at_label(z, labels)
    losses = tf.math.softplus(tf.reduce_logsumexp(others, axis=-1) - own)
    return losses, own > tf.reduce_max(others, axis=-1)


def _cotangent(z: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The unit vector along p - onehot and the logarithm of its norm."""
    log_p = tf.nn.log_softmax(z)
    own = tf.one_hot(labels, tf.shape(z)[1], on_value=True, off_value=False, dtype=tf.bool)
    log_others = tf.where(own, tf.constant(-math.inf, tf.float64), log_p)
    largest = tf.reduce_max(log_others, axis=-1)
    relative = tf.exp(log_others - largest[:, None])
    total = tf.reduce_sum(relative, axis=-1, keepdims=True)
    unit, log_norms = unit_rows(tf.where(own, -total, relative))
    return unit, log_norms + largest


def unit_rows(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Rows divided by their norms, zero rows left as they are, and the logarithms of the norms."""
    largest = tf.reduce_max(tf.abs(rows), axis=-1)  # squares of small numbers underflow
    rows = tf.math.divide_no_nan(rows, largest[:, None])
    norms = tf.norm(rows, axis=-1)
    return tf.math.divide_no_nan(rows, norms[:, None]), tf.math.log(norms) + tf.math.log(largest)
