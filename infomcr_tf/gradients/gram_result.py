r"""What a Gram matrix of per-example gradients says: rank, determinant, largest eigenvalue."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

# Examples up to which all eigenvalues are computed; beyond, the Cholesky factor is enough where
# it exists: it takes a twentieth of the time.
EIGENVALUES_UP_TO = 2000


@dataclasses.dataclass(frozen=True)
class GramMatrix:
    r"""$\xi = J J^T$ of n examples, as cosines and logarithms of lengths.

    Attributes:
        cosines: [n, n] float64, $\hat J \hat J^T$ with unit rows $\hat J$; the row and column of a
            zero gradient are zero.
        log_norms: [n] float64, $\ln \|J_j\|$, -inf for a zero gradient.
        losses: [N'] float64, cross-entropy of all the examples given, of the model's own logits.
        correct: [N'] bool, which of them are classified correctly.
        kept: [n] indices of the rows among the N' examples given.
        epsilon: unit roundoff of the dtype that J was computed in.
        logdet_error: estimate of the standard deviation of `logdet` that is due to the rounding of
            inner products, NaN where there is none.
        layers: path of a layer -> the Gram matrix of the gradients with respect to its weights
            alone. Their `xi` add up to this one's. Empty unless it was asked for.
    """

    cosines: np.ndarray
    log_norms: np.ndarray
    losses: np.ndarray
    correct: np.ndarray
    kept: np.ndarray
    epsilon: float
    logdet_error: float = np.nan
    layers: Mapping[str, GramMatrix] = dataclasses.field(default_factory=dict)

    @property
    def excluded(self) -> np.ndarray:
        """Indices of the examples left out, because `equalize_loss` has no temperature for them."""
        return np.setdiff1d(np.arange(len(self.losses)), self.kept)

    @property
    def xi(self) -> np.ndarray:
        r"""$\xi$ [n, n] float64; entries below about 1e-308 are zero."""
        norms = np.exp(self.log_norms)
        if np.all((norms > 1e-150) & (norms < 1e150)):
            return norms[:, None] * self.cosines * norms
        return self.cosines * np.exp(np.add.outer(self.log_norms, self.log_norms))

    @functools.cached_property
    def eigenvalues(self) -> np.ndarray:
        """Eigenvalues [n] of `cosines`, ascending. Not those of `xi`."""
        return np.linalg.eigvalsh(self.cosines)

    @property
    def rank_tolerance(self) -> float:
        r"""Eigenvalues of `cosines` at most this large count as zero.

        An entry of $\hat J$ is known to within some roundings $\epsilon$ of its row's length, so a
        singular value of $\hat J$ that is zero appears as at most $\sqrt n c \epsilon$, and as an
        eigenvalue as the square of it; c = 32 allows for the layers that a gradient passes. The
        eigenvalues themselves are exact to n roundings of float64.
        """
        n = len(self.cosines)
        return n * max((32 * self.epsilon) ** 2, np.finfo(np.float64).eps * n)

    @functools.cached_property
    def rank(self) -> int:
        """The rank of `xi`: that of `cosines`, as rows and columns only differ in length."""
        if self._log_det_of_cosines is not None:
            return len(self.cosines)
        return int((self.eigenvalues > self.rank_tolerance).sum())

    @functools.cached_property
    def logdet(self) -> float:
        r"""$\ln|\xi|$, natural logarithm; -inf where `rank` is below n."""
        if self._log_det_of_cosines is not None:
            return float(2 * self.log_norms.sum() + self._log_det_of_cosines)
        if self.rank < len(self.cosines):
            return -np.inf
        return float(2 * self.log_norms.sum() + np.log(self.eigenvalues).sum())

    @functools.cached_property
    def _log_det_of_cosines(self) -> float | None:
        """By Cholesky's factor, for a large matrix that is certainly of full rank."""
        n = len(self.cosines)
        if n <= EIGENVALUES_UP_TO:
            return None
        shifted = self.cosines.copy(order="F")
        # What stays positive definite without `rank_tolerance` has all eigenvalues above it.
        shifted[np.diag_indices(n)] -= self.rank_tolerance
        _, failed = scipy.linalg.lapack.dpotrf(shifted, lower=1, overwrite_a=1, clean=0)
        if failed:
            return None
        np.copyto(shifted, self.cosines)
        factor, _ = scipy.linalg.lapack.dpotrf(shifted, lower=1, overwrite_a=1, clean=0)
        return float(2 * np.log(np.diag(factor)).sum())


def largest_eigenvalue(matrix: np.ndarray) -> float:
    """The largest eigenvalue of a large symmetric matrix, by Lanczos' method."""
    # A start that is not random: the same number every time.
    start = np.ones(len(matrix))
    (value,) = scipy.sparse.linalg.eigsh(
        matrix, k=1, which="LA", v0=start, return_eigenvectors=False
    )
    return float(value)


class Rounding(NamedTuple):
    r"""What the rounding of inner products in float32 does to $\ln|\xi|$.

    Attributes:
        shift: by how much, relatively, diagonal entries are off more than all others. Sums of
            squares lose more to rounding than sums of terms of both signs, always in one
            direction, so this adds up over the examples.
        variances: [tiles, tiles] variances of $\ln|\xi|$ by pairs of tiles, without the shift.
    """

    shift: float
    variances: np.ndarray


def logdet_errors(
    cosines: np.ndarray, errors: np.ndarray, tiles: list[slice], epsilon: float
) -> Rounding | None:
    r"""How much the rounding of inner products in float32 may move $\ln|\xi|$.

    To first order $\delta \ln|A| = \sum_{ij} (A^{-1})_{ij} \delta A_{ij}$. Both parts of the error
    are measured on a few examples of each tile: a shift of the diagonal, the same for all, and what
    is random, with a part that is the same for all pairs and a part proportional to the cosine.

    Args:
        cosines: A, [n, n] float64, symmetric.
        errors: [k, 2, m, m], the errors and the products of m examples of k tiles.
        tiles: slices of the examples.
        epsilon: half of the spacing of float32 at 1, the least a product is taken to be wrong by.

    Returns:
        The rounding, or None where A is not positive definite.
    """
    samples = [_relative(*sample) for sample in errors]
    own = np.concatenate([np.diag(error) for error, _ in samples])
    other = np.concatenate([e[np.triu_indices(len(e), 1)] for e, _ in samples])
    spread = max(np.sqrt(np.mean(other**2)) if len(other) else 0.0, epsilon / 64)
    proportional = max(np.sqrt(np.mean(own**2)), epsilon / 8)
    inverses = [_inverse(a) for _, a in samples]
    inverse = _inverse(cosines)
    if inverse is None or any(part is None for part in inverses):
        return None
    shift, uncertainty = _shift([error for error, _ in samples], inverses)
    variances = np.zeros((len(tiles), len(tiles)))
    for i, rows in enumerate(tiles):
        for j, columns in enumerate(tiles[: i + 1]):
            part = inverse[rows, columns]
            if i == j:
                part = np.tril(part)
                # The same error in all tiles: the square of a sum is at most this sum of squares.
                variances[i, i] = len(tiles) * (uncertainty * np.trace(part)) ** 2
            size = spread**2 + (proportional * cosines[rows, columns]) ** 2
            weight = np.where(np.logical_and(np.eye(*part.shape), i == j), 1.0, 4.0)
            # An entry below the diagonal stands for two equal ones.
            variances[j, i] += np.sum(weight * size * part**2)
    return Rounding(shift, variances)


def _relative(error: np.ndarray, products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors of products, and the products, in units of the examples' lengths."""
    lengths = np.sqrt(np.maximum(np.diag(products), 0))
    lengths = np.where(lengths > 0, lengths, 1)
    cosines = products / np.outer(lengths, lengths)
    # A zero gradient makes the determinant zero whatever the others are.
    cosines[np.diag_indices(len(cosines))] = 1
    return error / np.outer(lengths, lengths), cosines


def _inverse(matrix: np.ndarray) -> np.ndarray | None:
    """The inverse, of which only the lower triangle is meant; None if not positive definite."""
    inverse = np.array(matrix, order="F")
    inverse, failed = scipy.linalg.lapack.dpotrf(inverse, lower=1, overwrite_a=1)
    if not failed:
        inverse, failed = scipy.linalg.lapack.dpotri(inverse, lower=1, overwrite_c=1)
    return None if failed else inverse


def _shift(errors: list[np.ndarray], inverses: list[Any]) -> tuple[float, float]:
    """The shift of the diagonal with which the samples' determinants are right, and its error."""
    shifts = []
    for error, lower in zip(errors, inverses, strict=True):
        inverse = np.tril(lower) + np.tril(lower, -1).T
        shifts.append(np.sum(inverse * error) / np.trace(inverse))
    mean, count = float(np.mean(shifts)), len(shifts)
    if count == 1:  # not known well enough to correct anything
        return 0.0, abs(mean)
    # A few samples may agree by chance.
    return mean, max(float(np.std(shifts, ddof=1)), abs(mean) / 4) / np.sqrt(count)


def pairs_to_refine(
    rounding: Rounding | None, count: int, tolerance: float
) -> tuple[list[tuple[int, int]], float]:
    """The fewest pairs of tiles without which ln|xi| is known well enough, and the error left."""
    if rounding is None:
        return [(i, j) for i in range(count) for j in range(i, count)], 0.0
    variances = rounding.variances
    order = np.argsort(variances, axis=None)
    left = np.cumsum(variances.ravel()[order])
    enough = int(np.searchsorted(left, tolerance**2, side="right"))
    pairs = [np.unravel_index(k, variances.shape) for k in order[enough:]]
    rest = float(np.sqrt(left[enough - 1])) if enough else 0.0
    return [(int(i), int(j)) for i, j in pairs if i <= j], rest
