r"""Trace and squared Frobenius norm from products with random vectors."""

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator

from infomcr_tf.arguments import check_argument, check_choice, check_integer
from infomcr_tf.curvature.probes import probe_results, signs

TRACE_METHODS = ("hutch++", "hutchinson")


class Estimate(NamedTuple):
    """A random estimate.

    Attributes:
        value: its value; unbiased.
        standard_error: the standard deviation of the value over seeds, estimated from the probes'
            spread; 0 where the value is exact.
    """

    value: float
    standard_error: float


def trace(
    operator: LinearOperator,
    *,
    num_probes: int = 30,
    method: str = "hutch++",
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
) -> Estimate:
    r"""Estimates $\mathrm{tr} A$; for a squared norm, too, `trace_and_squared_norm` needs no more.

    "hutchinson" is the mean of $z^T A z$ over random signs z, with variance
    $2 \sum_{i \ne j} A_{ij}^2$ a probe (Hutchinson 1989). "hutch++" spends a third of the products
    on a basis Q of the range of A, a third on $\mathrm{tr}(Q^T A Q)$, which is exact, and estimates
    only the rest, $z^T P A P z$ with $P = I - Q Q^T$ (Meyer, Musco, Musco and Woodruff, *Hutch++:
    Optimal stochastic trace estimation*, 2021): far more accurate where a few eigenvalues stand
    out, as in trained networks. Where there are no more weights than probes the trace is computed
    exactly.

    Args:
        operator: symmetric [W, W].
        num_probes: the number of products with A in all, at least 2 ("hutch++": 6).
        method: one of `TRACE_METHODS`.
        seed: of the random signs.
        checkpoint: a folder in which results are kept; the same call resumes from them.
        progress: show a progress bar.

    Returns:
        An `Estimate`: `.value` and `.standard_error`.

    Raises:
        ValueError: where an argument does not fit.
    """
    return trace_and_squared_norm(
        operator,
        num_probes=num_probes,
        method=method,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )[0]


def squared_frobenius_norm(
    operator: LinearOperator,
    *,
    num_probes: int = 30,
    method: str = "hutch++",
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
) -> Estimate:
    r"""Estimates $\|A\|_F^2 = \mathrm{tr}(A^2)$, the mean of $\|A z\|^2$ over random signs z.

    "hutch++" takes the part in the range of Q exactly, $\|A Q\|_F^2 + E \|A P z\|^2$. Arguments,
    result and errors are those of `trace`, which costs the same products.
    """
    return trace_and_squared_norm(
        operator,
        num_probes=num_probes,
        method=method,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )[1]


def trace_and_squared_norm(
    operator: LinearOperator,
    *,
    num_probes: int = 30,
    method: str = "hutch++",
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
) -> tuple[Estimate, Estimate]:
    """Estimates both from the same products; arguments and errors are those of `trace`.

    Returns:
        The `Estimate` of the trace and that of the squared Frobenius norm.
    """
    check_choice("method", method, TRACE_METHODS)
    check_argument("seed", seed)
    least = 6 if method == "hutch++" else 2
    num_probes = check_integer("num_probes", num_probes, minimum=least)
    size = operator.shape[0]

    def run(
        kind: str, count: int, vector: Callable[[int], np.ndarray], keep: bool = False
    ) -> list[dict]:
        def compute(index: int) -> dict[str, np.ndarray]:
            z = vector(index)
            product = operator @ z
            result = {"trace": z @ product, "square": product @ product}
            return result | ({"product": product} if keep else {})

        settings = f"{kind} of {num_probes} seed {seed}"
        return list(
            probe_results(
                operator,
                compute,
                count,
                title=f"trace: {kind}",
                settings=settings,
                checkpoint=checkpoint,
                progress=progress,
            )
        )

    if num_probes >= size:
        rows = np.eye(size)
        exact = run("all columns", size, lambda index: rows[index])
        total, square = (float(sum(r[key] for r in exact)) for key in ("trace", "square"))
        return Estimate(total, 0.0), Estimate(square, 0.0)
    if method == "hutchinson":
        basis, known = np.zeros((size, 0)), []
        rest = run("probes", num_probes, lambda index: signs(size, seed, index))
    else:
        third = num_probes // 3
        sketch = run("range", third, lambda index: signs(size, seed, index), keep=True)
        basis = _orthonormal(np.stack([result["product"] for result in sketch], axis=1))
        known = run("range exactly", basis.shape[1], lambda index: basis[:, index])

        def outside(index: int) -> np.ndarray:
            z = signs(size, seed, third + index)
            return z - basis @ (basis.T @ z)

        rest = run("rest", num_probes - 2 * third, outside)
    return _estimate(known, rest, "trace"), _estimate(known, rest, "square")


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """A basis of the columns' span; directions that are rounding only are left out."""
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, singular > singular[0] * len(columns) * np.finfo(np.float64).eps]


def _estimate(known: list[dict], rest: list[dict], key: str) -> Estimate:
    samples = np.array([float(result[key]) for result in rest])
    value = sum(float(result[key]) for result in known) + samples.mean()
    return Estimate(float(value), float(samples.std(ddof=1) / np.sqrt(len(samples))))
