"""The Lanczos process with full reorthogonalisation."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal


class Ritz(NamedTuple):
    r"""What m steps know of a symmetric matrix A.

    Attributes:
        values: [m] eigenvalues of the tridiagonal $T = Q^T A Q$, ascending.
        vectors: [m, m] its eigenvectors; `basis.T @ vectors` are those of A, nearly.
        residuals: [m] $\|A u - \theta u\|$ of these.
        basis: [m, W] the orthonormal rows $Q^T$.
        finished: whether the Krylov space is exhausted: the residuals are rounding only.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    basis: np.ndarray
    finished: bool


def lanczos(product: Callable, start: np.ndarray, num_steps: int) -> Iterator[Ritz]:
    """Yields after each step, one product, what is known; at most `num_steps` times.

    Each new vector is made orthogonal to all before it, twice: without that, copies of converged
    eigenvalues appear.

    Args:
        product: `v -> A v`, A symmetric.
        start: [W], not zero.
        num_steps: m; there are never more than W steps.
    """
    basis = np.empty((min(num_steps, len(start)), len(start)))
    diagonal, off_diagonal = [], []
    following = start / np.linalg.norm(start)
    for step in range(len(basis)):
        basis[step] = following
        following = np.array(product(basis[step]))
        size = np.linalg.norm(following)
        diagonal.append(basis[step] @ following)
        done = basis[: step + 1]
        for _ in range(2):
            following -= done.T @ (done @ following)
        beta = np.linalg.norm(following)
        values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(off_diagonal))
        # What is left of a vector of this size when nothing but rounding is left.
        rounding = len(start) * np.finfo(np.float64).eps * max(size, np.abs(values).max())
        finished = beta <= rounding or step + 1 == len(start)
        yield Ritz(values, vectors, beta * np.abs(vectors[-1]), done, finished)
        if finished:
            return
        following /= beta
        off_diagonal.append(beta)
