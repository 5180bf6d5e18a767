r"""Per-example gradients of one variable, for n examples, and their Gram matrix.

Both forms are tuples of tensors with the examples along the first axis, so parts computed from
chunks of the examples can be joined.
"""

from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

# Columns multiplied at once: bounds the float64 copy to 0.5 MB an example.
_SLICE = 65536


class Rows(NamedTuple):
    """The gradients themselves.

    Attributes:
        values: [n, size], the columns in the order of the flattened variable.
    """

    values: tf.Tensor

    def gram(self) -> tf.Tensor:
        """The inner products [n, n], in float64."""
        products = 0.0
        for start in range(0, self.values.shape[1], _SLICE):
            part = tf.cast(self.values[:, start : start + _SLICE], tf.float64)
            products += tf.matmul(part, part, transpose_b=True)
        return products

    def slices(self) -> Iterator[tf.Tensor]:
        """The columns, one part after the other."""
        for start in range(0, self.values.shape[1], _SLICE):
            yield self.values[:, start : start + _SLICE]

    def nbytes(self) -> int:
        """The memory of the tensors."""
        return _nbytes(self)


class OuterProducts(NamedTuple):
    r"""The factors of gradients that are sums of outer products, $\sum_s u_s v_s^T$.

    They are smaller than the gradients, and
    $\langle g_i, g_j \rangle = \sum_{s,t} (u_{is} \cdot u_{jt}) (v_{is} \cdot v_{jt})$
    needs fewer operations, where there are few positions s (see `cheaper`).

    Attributes:
        u: [n, S, P]
        v: [n, S, Q]
    """

    u: tf.Tensor
    v: tf.Tensor

    @staticmethod
    def cheaper(positions: int, p: int, q: int) -> bool:
        """Whether inner products of factors take fewer operations than those of P x Q rows."""
        return positions**2 * (p + q) <= p * q

    def gram(self) -> tf.Tensor:
        """The inner products [n, n], in float64."""
        n, positions = tf.shape(self.u)[0], self.u.shape[1]
        products = 1.0
        for factor in self:
            flat = tf.cast(tf.reshape(factor, [-1, factor.shape[2]]), tf.float64)
            products *= tf.matmul(flat, flat, transpose_b=True)
        return tf.reduce_sum(tf.reshape(products, [n, positions, n, positions]), axis=[1, 3])

    def slices(self) -> Iterator[tf.Tensor]:
        """The columns of the gradients, one part after the other."""
        rows = max(1, _SLICE // self.v.shape[2])
        for start in range(0, self.u.shape[2], rows):
            part = tf.matmul(self.u[:, :, start : start + rows], self.v, transpose_a=True)
            yield tf.reshape(part, [-1, part.shape[1] * part.shape[2]])

    def nbytes(self) -> int:
        """The memory of the tensors."""
        return _nbytes(self)


def _nbytes(tensors: tuple[tf.Tensor, ...]) -> int:
    return sum(t.shape.num_elements() * t.dtype.size for t in tensors)


Block = Rows | OuterProducts
