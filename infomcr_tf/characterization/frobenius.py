"""Appendix D's estimate of the Frobenius norm, from sampled entries of g g^T."""

from typing import Any

import numpy as np

from infomcr_tf.gradients.gram import GradientEngine

NUM_ENTRIES = 100_000


def sampled_frobenius_norm(
    engine: GradientEngine,
    x: Any,
    labels: np.ndarray,
    *,
    num_parameters: int,
    generator: np.random.Generator,
    num_entries: int = NUM_ENTRIES,
) -> float:
    """Estimates `(1/N') sum_j ||g_j g_j^T||_F^2` from sampled entries, as the paper does.

    Each of the entries is that of a uniformly drawn example j, row a and column b, so the mean of
    `(g_ja g_jb)^2` times W^2 is an unbiased estimate. What it estimates is known exactly, at less
    cost, as the mean of `||g_j||^4`: this is for comparison with the paper.

    Args:
        engine: gives the rows of J.
        x: the examples of the sample S^t.
        labels: int64 [N'].
        num_parameters: W.
        generator: draws the entries.
        num_entries: how many.

    Returns:
        The estimate, float64.
    """
    rows = entries = factors = scales = None
    for columns, block, log_scales in engine.row_blocks(x, labels):
        if rows is None:
            rows = generator.integers(len(block), size=num_entries)
            entries = generator.integers(num_parameters, size=(2, num_entries))
            factors = np.zeros((2, num_entries))
            scales = np.exp(log_scales[rows])
        for factor, entry in zip(factors, entries, strict=True):
            inside = np.flatnonzero((entry >= columns.start) & (entry < columns.stop))
            factor[inside] = block[rows[inside], entry[inside] - columns.start]
    values = (scales * factors[0]) * (scales * factors[1])
    return float(num_parameters) ** 2 * float(np.mean(values**2))
