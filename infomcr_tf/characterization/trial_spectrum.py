"""The eigenvalues of xi = J J^T of one sample, which most metrics are functions of.

J may be scaled so small at the end of training that `xi` has no floating-point value. So each
number is computed from the cosines between the per-example gradients and the logarithms of their
norms, and the common scale comes back last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator

from infomcr_tf.curvature import Estimate, trace_and_squared_norm
from infomcr_tf.gradients.gram_result import EIGENVALUES_UP_TO, GramMatrix, largest_eigenvalue


class EigenvalueSummary(NamedTuple):
    """The largest eigenvalue, the sum of squares, the mean and the standard deviation of all."""

    largest: float
    squares: float
    mean: float
    std: float


class TrialSpectrum:
    """What one trial's metrics are functions of; each part is computed once, when asked for.

    Args:
        gram: the trial's Gram matrix xi = J J^T.
        row_blocks: gives the rows of J again, as `GradientEngine.row_blocks` does.
        num_parameters: W.
        generator: for metrics that draw random numbers; every trial has its own.
        make_hessian: gives the Hessian of the sample's mean loss, as an operator.
        hessian_seed: for the random vectors that it is multiplied with.
    """

    def __init__(
        self,
        gram: GramMatrix,
        *,
        row_blocks: Callable[[], Iterable[tuple[slice, np.ndarray, np.ndarray]]] | None = None,
        num_parameters: int = 0,
        generator: np.random.Generator | None = None,
        make_hessian: Callable[[], LinearOperator] | None = None,
        hessian_seed: int = 0,
    ) -> None:
        self.gram = gram
        self.row_blocks = row_blocks
        self.num_parameters = num_parameters
        self.generator = generator
        self.hessian_seed = hessian_seed
        self._make_hessian = make_hessian
        self._log_scale = float(np.max(gram.log_norms))

    @property
    def num_examples(self) -> int:
        """The number of rows of xi."""
        return len(self.gram.log_norms)

    @cached_property
    def hessian(self) -> LinearOperator:
        """The Hessian of the sample's mean loss [W, W]."""
        assert self._make_hessian is not None  # set for every trial that is measured
        return self._make_hessian()

    @cached_property
    def hessian_moments(self) -> tuple[Estimate, Estimate]:
        """Its trace and squared Frobenius norm, estimated."""
        return trace_and_squared_norm(self.hessian, seed=self.hessian_seed, progress=False)

    @cached_property
    def scaled_eigenvalues(self) -> np.ndarray:
        """Eigenvalues of `xi / max_j ||J_j||^2`, ascending; float64 [n]. Minutes for n = 10,000."""
        if self._log_scale == -np.inf:
            return np.zeros(self.num_examples)
        return np.maximum(np.linalg.eigvalsh(self._scaled_matrix()), 0.0)

    @cached_property
    def scaled(self) -> EigenvalueSummary:
        """What can be said of the scaled eigenvalues, for many examples without computing all."""
        if self.num_examples <= EIGENVALUES_UP_TO or self._log_scale == -np.inf:
            eigenvalues = self.scaled_eigenvalues
            return EigenvalueSummary(
                largest=float(eigenvalues[-1]),
                squares=float(np.sum(eigenvalues**2)),
                mean=float(np.mean(eigenvalues)),
                std=float(np.std(eigenvalues)),
            )
        matrix = self._scaled_matrix()
        mean, squares = float(np.mean(np.diag(matrix))), float(np.sum(matrix**2))
        std = math.sqrt(max(squares / self.num_examples - mean**2, 0.0))
        return EigenvalueSummary(largest_eigenvalue(matrix), squares, mean, std)

    def _scaled_matrix(self) -> np.ndarray:
        norms = np.exp(self.gram.log_norms - self._log_scale)
        return norms[:, None] * self.gram.cosines * norms

    @property
    def scale(self) -> float:
        """`max_j ||J_j||^2`, what the eigenvalues have been divided by."""
        return float(np.exp(2 * self._log_scale))
