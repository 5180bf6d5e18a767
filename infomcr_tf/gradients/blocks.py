r"""Per-example gradients of one variable, for n examples, and their Gram matrix.

Both forms consist of tensors with the examples along the first axis, so parts computed from chunks
of the examples can be joined.
"""

from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

# Columns handed on or joined at once: bounds a copy to 0.26 MB an example.
_SLICE = 65536
# Narrower parts are multiplied together.
_NARROW = 4096
# Length of a partial inner product: accurate in float32, and the operands stay in the cache.
_PARTIAL = 1024


class Rows(NamedTuple):
    """The gradients themselves.

    Attributes:
        parts: tensors [n, c], side by side in the order of the flattened variable.
    """

    parts: tuple[tf.Tensor, ...]

    def slices(self) -> Iterator[tf.Tensor]:
        """The columns, one part after the other."""
        for part in self.parts:
            for start in range(0, part.shape[1], _SLICE):
                yield part[:, start : start + _SLICE]


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
        n, positions = self.u.shape[:2]
        products = 1.0
        for factor in self:
            flat = tf.cast(tf.reshape(factor, [n * positions, factor.shape[2]]), tf.float64)
            products *= tf.matmul(flat, flat, transpose_b=True)
        return tf.reduce_sum(tf.reshape(products, [n, positions, n, positions]), axis=[1, 3])

    def slices(self) -> Iterator[tf.Tensor]:
        """The columns of the gradients, one part after the other."""
        rows = max(1, _SLICE // self.v.shape[2])
        for start in range(0, self.u.shape[2], rows):
            part = tf.matmul(self.u[:, :, start : start + rows], self.v, transpose_a=True)
            yield tf.reshape(part, [-1, part.shape[1] * part.shape[2]])


Block = Rows | OuterProducts


def inner_products(blocks: list[Block], dtype: tf.DType) -> tf.Tensor:
    """The inner products [n, n] of gradients that consist of several blocks, in float64.

    Args:
        blocks: the blocks, of eager tensors.
        dtype: in which float32 gradients are multiplied, over at most 1024 columns at a time; the
            partial inner products are added in float64.
    """
    products, narrow = 0.0, []
    for block in blocks:
        if isinstance(block, OuterProducts):
            products += block.gram()
            continue
        narrow += [part for part in block.parts if part.shape[1] < _NARROW]
        for part in block.parts:
            if part.shape[1] >= _NARROW:
                products += _partial_products(part, dtype)
    if narrow:
        products += _partial_products(tf.concat(narrow, axis=1), dtype)
    return products


def nbytes(block: Block) -> int:
    """The memory of a block's tensors."""
    return sum(t.shape.num_elements() * t.dtype.size for t in tf.nest.flatten(block))


def _partial_products(rows: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    n, width = rows.shape
    dtype = tf.float64 if rows.dtype == tf.float64 else dtype
    count = -(-width // _PARTIAL)
    length = -(-width // count)
    if count * length > width:
        rows = tf.pad(rows, [(0, 0), (0, count * length - width)])
    rows = tf.transpose(tf.reshape(tf.cast(rows, dtype), [n, count, length]), [1, 0, 2])
    return tf.reduce_sum(tf.cast(tf.matmul(rows, rows, transpose_b=True), tf.float64), axis=0)
