"""The Lanczos process with full reorthogonalisation."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal


class Ritz(NamedTuple):
    r"""What m steps know of a symmetric matrix A.

    Attributes:
        values: [m] eigenvalues of the tridiagonal $T = Q^T A Q$, ascending.
        weights: [m] squared first entries of its eigenvectors, summing to 1.
        residuals: [m] $\|A u - \theta u\|$ of the Ritz vectors u.
        vectors: [m, m] the eigenvectors of T.
        basis: [m, W] the orthonormal rows $Q^T$; `basis.T @ vectors` are the Ritz vectors.
    """

    values: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray
    vectors: np.ndarray
    basis: np.ndarray


def lanczos(
    product: Callable, start: np.ndarray, num_steps: int, restart: np.random.Generator | None = None
) -> Iterator[Ritz]:
    """Yields after each step, one product, what is known; at most `num_steps` times.

    Each new vector is made orthogonal to all before it, twice: without that, copies of converged
    eigenvalues appear.

    Args:
        product: `v -> A v`, A symmetric.
        start: [W], not zero.
        num_steps: m; there are never more than W steps.
        restart: draws a new direction where the Krylov space of the start is exhausted; None ends.
    """
    basis = np.empty((min(num_steps, len(start)), len(start)))
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    following = start / np.linalg.norm(start)
    for step in range(len(basis)):
        basis[step] = following
        following = np.array(product(basis[step]))
        diagonal.append(basis[step] @ following)
        size = np.linalg.norm(following)
        done = basis[: step + 1]
        following = _orthogonal(following, done)
        beta = float(np.linalg.norm(following))
        values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(off_diagonal))
        # What is left of a vector of this size when nothing but rounding is left.
        exhausted = beta <= len(start) * np.finfo(np.float64).eps * max(size, np.abs(values).max())
        if exhausted:
            beta = 0.0
        yield Ritz(values, vectors[0] ** 2, beta * np.abs(vectors[-1]), vectors, done)
        if exhausted:
            if restart is None or step + 1 == len(start):
                return
            following = _orthogonal(restart.normal(size=len(start)), done)
        following /= np.linalg.norm(following)
        off_diagonal.append(beta)


def _orthogonal(vector: np.ndarray, basis: np.ndarray) -> np.ndarray:
    for _ in range(2):
        vector = vector - basis.T @ (basis @ vector)
    return vector
