"""The eigenvalues of xi = J J^T of one sample, which most metrics are functions of.

J may be scaled so small at the end of training that `xi` has no floating-point value. So each
number is computed from the cosines between the per-example gradients and the logarithms of their
norms, and the common scale comes back last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
from scipy.sparse.linalg import LinearOperator

from infomcr_tf.curvature import Estimate, trace_and_squared_norm
from infomcr_tf.gradients.gram import GramMatrix


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
        assert self._make_hessian is not None  # of a real trial
        return self._make_hessian()

    @cached_property
    def hessian_moments(self) -> tuple[Estimate, Estimate]:
        """Its trace and squared Frobenius norm, estimated."""
        return trace_and_squared_norm(self.hessian, seed=self.hessian_seed, progress=False)

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
