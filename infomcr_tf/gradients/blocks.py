r"""Per-example gradients of one variable, for n examples, and their inner products.

All forms consist of tensors with the examples along the first axis, so parts computed from chunks
of the examples can be joined.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

# Columns handed on or joined at once: bounds a copy to 0.26 MB an example.
_SLICE = 65536
# Length of a partial inner product: the longer, the larger the rounding of float32 sums.
_PARTIAL = 16384

# Columns of a variable's gradient that it is not worth multiplying alone.
_NARROW = 2048


class Rows(NamedTuple):
    """The gradients themselves.

    Attributes:
        parts: tensors [n, c], side by side in the order of the flattened variable.
    """

    parts: tuple[tf.Tensor, ...]

    def slices(self, width: int = _SLICE) -> Iterator[tf.Tensor]:
        """The columns, one part after the other."""
        for part in self.parts:
            for start in range(0, part.shape[1], width):
                whole = part.shape[1] <= width
                yield part if whole else part[:, start : start + width]

    def products(self, other: "Rows", dtype: tf.DType) -> tf.Tensor:
        """The inner products [n, m] with the gradients of m other examples, in float64."""
        pairs = zip(self.slices(_PARTIAL), other.slices(_PARTIAL), strict=True)
        return tf.add_n([_matmul(mine, its, dtype) for mine, its in pairs])


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

    def products(self, other: "OuterProducts", dtype: tf.DType) -> tf.Tensor:
        """The inner products [n, m] with the gradients of m other examples, in float64."""
        del dtype  # the factors are short: float64 costs little
        positions = self.u.shape[1]
        products = 1.0
        for mine, its in zip(self, other, strict=True):
            left, right = (
                tf.cast(tf.reshape(t, [-1, mine.shape[2]]), tf.float64) for t in (mine, its)
            )
            products *= tf.matmul(left, right, transpose_b=True)
        n, m = tf.shape(self.u)[0], tf.shape(other.u)[0]
        return tf.reduce_sum(tf.reshape(products, [n, positions, m, positions]), axis=[1, 3])

    def slices(self) -> Iterator[tf.Tensor]:
        """The columns of the gradients, one part after the other."""
        rows = max(1, _SLICE // self.v.shape[2])
        for start in range(0, self.u.shape[2], rows):
            part = tf.matmul(self.u[:, :, start : start + rows], self.v, transpose_a=True)
            yield tf.reshape(part, [-1, part.shape[1] * part.shape[2]])


class Lookups(NamedTuple):
    """The gradients of a table of which each example looked up some rows.

    Attributes:
        tokens: [n, S] int32, the rows looked up.
        gradients: [n, S, D], with respect to what was looked up.
        table: [n, V, 0], empty: its static shape says how long the table is.
    """

    tokens: tf.Tensor
    gradients: tf.Tensor
    table: tf.Tensor

    @staticmethod
    def of(tokens: tf.Tensor, gradients: tf.Tensor, length: int) -> "Block":
        """Look-ups in a table of this length; rows where these are cheaper to multiply."""
        lookups = Lookups(tokens, gradients, tf.zeros([tf.shape(tokens)[0], length, 0]))
        if tokens.shape[1] ** 2 <= length:
            return lookups
        return Rows((tf.concat(list(lookups.slices()), axis=1),))

    def products(self, other: "Lookups", dtype: tf.DType) -> tf.Tensor:
        """The inner products [n, m] with the gradients of m other examples, in float64."""
        positions, width = self.gradients.shape[1:]
        tokens = tf.reshape(other.tokens, [-1])
        gradients = tf.reshape(other.gradients, [-1, width])

        def with_others(example: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            own, d = example
            same = tf.cast(own[:, None] == tokens[None], tf.float64)
            products = same * _matmul(d, gradients, dtype)
            return tf.reduce_sum(tf.reshape(products, [positions, -1, positions]), axis=[0, 2])

        return tf.map_fn(with_others, (self.tokens, self.gradients), fn_output_signature=tf.float64)

    def slices(self) -> Iterator[tf.Tensor]:
        """The columns of the gradients: those of the whole table."""
        length, width = self.table.shape[1], self.gradients.shape[2]
        n = tf.shape(self.tokens)[0]
        segments = self.tokens + length * tf.range(n)[:, None]
        rows = tf.math.unsorted_segment_sum(self.gradients, segments, n * length)
        yield tf.reshape(rows, [-1, length * width])


Block = Rows | OuterProducts | Lookups


def inner_products(left: list[Block], right: list[Block], dtype: tf.DType) -> tf.Tensor:
    """The inner products [n, m] of the gradients of n and m examples, in float64.

    Args:
        left: the blocks of n examples.
        right: the blocks of m examples, of the same variables.
        dtype: in which float32 gradients are multiplied; partial inner products are added in
            float64.
    """
    left, right = narrow_joined(left), narrow_joined(right)
    pairs: Iterator[tuple[Any, Any]] = zip(left, right, strict=True)  # each of one form
    return tf.add_n([a.products(b, dtype) for a, b in pairs])


def layer_products(
    layers: Sequence[int], count: int, left: list[Block], right: list[Block]
) -> tf.Tensor:
    """The same sums for each of `count` layers: [count, n, m], multiplied in float64.

    Args:
        layers: the number of the layer of each block.
        count: of all layers, those without a block among them.
        left: the blocks of n examples.
        right: the blocks of m examples, of the same variables.
    """
    sums: dict[int, tf.Tensor] = {}
    pairs: Iterator[tuple[Any, Any]] = zip(left, right, strict=True)  # each of one form
    for layer, (a, b) in zip(layers, pairs, strict=True):
        products = a.products(b, tf.float64)
        sums[layer] = sums[layer] + products if layer in sums else products
    zero = tf.zeros_like(products)
    return tf.stack([sums.get(layer, zero) for layer in range(count)])


def narrow_joined(blocks: list[Block]) -> list[Block]:
    """Rows of few columns side by side, as of scales and offsets: products of many are slow."""
    narrow: dict[tf.DType, list[tf.Tensor]] = {}
    rest: list[Block] = []
    for block in blocks:
        if isinstance(block, Rows) and sum(part.shape[1] for part in block.parts) < _NARROW:
            narrow.setdefault(block.parts[0].dtype, []).extend(block.parts)
        else:
            rest.append(block)
    return rest + [Rows((tf.concat(parts, axis=1),)) for parts in narrow.values()]


def dense_rows(block: Block) -> tf.Tensor:
    """The gradients as one tensor [n, size]."""
    if isinstance(block, Rows) and len(block.parts) == 1:
        return block.parts[0]
    parts = block.parts if isinstance(block, Rows) else list(block.slices())
    return tf.concat(parts, axis=1)


def nbytes(block: Block) -> int:
    """The memory of one example's share of a block."""
    return sum(math.prod(t.shape[1:]) * t.dtype.size for t in tf.nest.flatten(block))


def _matmul(left: tf.Tensor, right: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    dtype = tf.float64 if left.dtype == tf.float64 else dtype
    products = tf.matmul(tf.cast(left, dtype), tf.cast(right, dtype), transpose_b=True)
    return tf.cast(products, tf.float64)
