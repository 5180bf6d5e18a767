"""The largest eigenvalues and their eigenvectors."""

from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from infomcr_tf.arguments import check_argument, check_choice, check_integer, check_number
from infomcr_tf.curvature.lanczos import Ritz, lanczos
from infomcr_tf.progress import progress_bar

WHICH = ("LA", "SA", "LM")
# The network's own roundings in float32: no residual becomes smaller, relative to ||A||.
_ROUNDING = 1e-6


def top_eigenvalues(
    operator: LinearOperator,
    k: int = 1,
    *,
    tol: float = 1e-3,
    which: str = "LA",
    seed: int = 0,
    max_basis: int = 60,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Computes the k largest eigenvalues by the Lanczos process.

    The process is looked at after each product and ends as soon as all k residuals
    $\|A u - \lambda u\|$ are at most `tol` $|\lambda|$; the eigenvalues themselves are then good to
    about the square of that. Where `max_basis` vectors do not suffice, scipy's implicitly restarted
    Lanczos process (ARPACK's `eigsh`) goes on from them. As with every such process from one
    vector, an eigenvalue that is exactly multiple may be found once only.

    Args:
        operator: symmetric [W, W]: a curvature operator, a layer's block, or any other.
        k: how many, from 1 to W.
        tol: the tolerance, relative.
        which: as in scipy: "LA" the largest, "SA" the smallest (most negative), "LM" the largest in
            magnitude: with k = 1 the spectral radius.
        seed: of the random start.
        max_basis: vectors to keep, `8 * max_basis * W` bytes at most. A matrix of no more rows is
            formed and solved exactly.
        progress: show a progress bar that counts products.

    Returns:
        The eigenvalues [k], descending ("SA" ascending, "LM" by magnitude), and the orthonormal
        eigenvectors [W, k]; float64.

    Raises:
        ValueError: where an argument does not fit.
        scipy.sparse.linalg.ArpackNoConvergence: where the process does not converge.
    """
    size = operator.shape[0]
    k = check_integer("k", k, minimum=1)
    if k > size:
        raise ValueError(f"`k` must be at most the number of rows, {size}. Received: k={k}")
    tol = check_number("tol", tol, above=0)
    check_choice("which", which, WHICH)
    check_argument("seed", seed)
    max_basis = check_integer("max_basis", max_basis, minimum=2)
    if size <= max(max_basis, k + 1):
        matrix = operator @ np.eye(size)
        return _ordered(*np.linalg.eigh((matrix + matrix.T) / 2), k, which)
    with progress_bar(None, title="eigenvalues, products", shown=progress) as bar:
        return _iterate(operator, k, tol, which, seed, max(max_basis, k + 1), bar)


def _iterate(
    operator: LinearOperator, k: int, tol: float, which: str, seed: int, steps: int, bar: Any
) -> tuple[np.ndarray, np.ndarray]:
    def product(v: np.ndarray) -> np.ndarray:
        bar.update()
        return operator.matvec(v)

    size = operator.shape[0]
    rng = np.random.default_rng(seed)
    for ritz in lanczos(product, rng.normal(size=size), steps, restart=rng):
        chosen = _order(ritz.values, which)[:k]
        residual = _relative(ritz, chosen).max()
        bar.set_postfix(residual=f"{residual:.1e}")
        if len(chosen) == k and residual <= tol:
            return ritz.values[chosen], ritz.basis.T @ ritz.vectors[:, chosen]
    start = ritz.basis.T @ ritz.vectors[:, chosen].sum(axis=1)
    counted = LinearOperator(operator.shape, matvec=product, dtype=np.float64)
    basis = min(size, max(steps, 2 * k + 1))
    values, vectors = eigsh(counted, k, which=which, tol=tol, v0=start, ncv=basis)
    return _ordered(values, vectors, k, which)


def _ordered(
    values: np.ndarray, vectors: np.ndarray, k: int, which: str
) -> tuple[np.ndarray, np.ndarray]:
    chosen = _order(values, which)[:k]
    return values[chosen], vectors[:, chosen]


def _relative(ritz: Ritz, chosen: np.ndarray) -> np.ndarray:
    """The residuals relative to the eigenvalues, 0 where they are no more than rounding."""
    residuals = ritz.residuals[chosen]
    rounding = residuals <= _ROUNDING * np.abs(ritz.values).max()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(rounding, 0.0, residuals / np.abs(ritz.values[chosen]))


def _order(values: np.ndarray, which: str) -> np.ndarray:
    keys = {"LA": -values, "SA": values, "LM": -np.abs(values)}
    return np.argsort(keys[which], kind="stable")
