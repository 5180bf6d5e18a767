"""The metrics that one sample S^t gives, from its Gram matrix xi = J J^T.

J may be scaled so small at the end of training that `xi` has no floating-point value. So each
number is computed from the cosines between the per-example gradients and the logarithms of their
norms, and the common scale comes back last.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from infomcr_tf.gradients.gram import GradientEngine, GramMatrix

NUM_ENTRIES = 100_000  # of g g^T, in appendix D's estimate of the Frobenius norm


class TrialSpectrum:
    """The eigenvalues of xi = J J^T of one trial, computed once and only when asked for.

    Args:
        gram: the trial's Gram matrix.
    """

    def __init__(self, gram: GramMatrix) -> None:
        self.gram = gram
        self._log_scale = float(np.max(gram.log_norms))

    @property
    def num_examples(self) -> int:
        """The number of rows of xi."""
        return len(self.gram.log_norms)

    @cached_property
    def scaled_eigenvalues(self) -> np.ndarray:
        """Eigenvalues of `xi / max_j ||J_j||^2`, ascending; float64 [n]."""
        if self._log_scale == -np.inf:
            return np.zeros(self.num_examples)
        norms = np.exp(self.gram.log_norms - self._log_scale)
        eigenvalues = np.linalg.eigvalsh(norms[:, None] * self.gram.cosines * norms)
        return np.maximum(eigenvalues, 0.0)

    @property
    def scale(self) -> float:
        """`max_j ||J_j||^2`, what the eigenvalues have been divided by."""
        return float(np.exp(2 * self._log_scale))


def gamma_hat(spectrum: TrialSpectrum) -> dict[str, float]:
    """`ln|xi|` (Eq. 6 before the mean over trials), natural logarithm; -inf where singular."""
    return {"gamma_hat": spectrum.gram.logdet}


def spectral_radius(spectrum: TrialSpectrum) -> dict[str, float]:
    """`lambda_max(xi) = ||J||_2^2` (appendix D, constants dropped: not divided by N')."""
    return {"spectral_radius": spectrum.scale * float(spectrum.scaled_eigenvalues[-1])}


def frobenius_norm(spectrum: TrialSpectrum) -> dict[str, float]:
    """`(1/N') sum_j ||g_j g_j^T||_F^2 = (1/N') sum_j ||g_j||^4` (appendix D), exact."""
    return {"frobenius_norm": float(np.mean(np.exp(4 * spectrum.gram.log_norms)))}


def frobenius_norm_cross(spectrum: TrialSpectrum) -> dict[str, float]:
    """`||xi / N'||_F^2 = ||J^T J / N'||_F^2`: the Fisher matrix of S^t with its cross terms."""
    squares = np.sum(spectrum.scaled_eigenvalues**2)
    return {"frobenius_norm_cross": spectrum.scale**2 * float(squares) / spectrum.num_examples**2}


def trace(spectrum: TrialSpectrum) -> dict[str, float]:
    """`tr(xi) / N' = (1/N') sum_j ||g_j||^2`: the trace of the Fisher matrix of S^t (section 6)."""
    return {"trace": float(np.mean(np.exp(2 * spectrum.gram.log_norms)))}


def rank(spectrum: TrialSpectrum) -> dict[str, float]:
    """The numerical rank of xi with unit rows, and the eigenvalue below which it counts as zero."""
    gram = spectrum.gram
    return {"rank": int(gram.rank), "rank_tolerance": float(gram.rank_tolerance)}


def am_gm_gap(spectrum: TrialSpectrum) -> dict[str, float]:
    """The gap between arithmetic and geometric mean of the eigenvalues of xi / N' (section 6).

    `tr(I)/|B| - prod_i lambda_i^(1/|B|) <= sqrt(|B| - 1) sigma`, with B = S^t, lambda_i the
    eigenvalues of I = xi / N' and sigma their (population) standard deviation. The bound says how
    far the trace, which the regulariser minimises, can be from the determinant it stands for.
    """
    n = spectrum.num_examples
    unit = spectrum.scale / n
    arithmetic = unit * float(np.mean(spectrum.scaled_eigenvalues))
    with np.errstate(over="ignore"):
        geometric = float(np.exp(spectrum.gram.logdet / n)) / n
    sigma = unit * float(np.std(spectrum.scaled_eigenvalues))
    return {"am_gm_gap": arithmetic - geometric, "am_gm_bound": float(np.sqrt(n - 1)) * sigma}


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


TRIAL_METRICS: dict[str, Callable[[TrialSpectrum], dict[str, float]]] = {
    function.__name__: function
    for function in (
        gamma_hat,
        spectral_radius,
        frobenius_norm,
        frobenius_norm_cross,
        trace,
        rank,
        am_gm_gap,
    )
}
