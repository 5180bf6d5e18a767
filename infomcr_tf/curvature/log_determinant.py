"""The log-determinant of a damped matrix."""

import os

import numpy as np
from scipy.sparse.linalg import LinearOperator

from infomcr_tf.arguments import check_number
from infomcr_tf.curvature.spectral_density import spectral_density
from infomcr_tf.curvature.trace import Estimate


def log_determinant(
    operator: LinearOperator,
    *,
    damping: float,
    num_probes: int = 10,
    num_steps: int = 60,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
) -> Estimate:
    r"""Estimates $\ln \det(A + \delta I) = \sum_i \ln(\lambda_i + \delta)$.

    By stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017), natural logarithm. The curvature
    matrices of a network are singular, so without damping it is $-\infty$; the value depends on
    $\delta$ roughly as (W - rank) ln $\delta$, and is compared at equal $\delta$ only.

    Args:
        operator: symmetric [W, W].
        damping: $\delta > 0$, in units of the eigenvalues.
        num_probes: see `spectral_density`; 1 gives no standard error (nan).
        num_steps: see `spectral_density`.
        seed: see `spectral_density`.
        checkpoint: see `spectral_density`.
        progress: see `spectral_density`.

    Returns:
        An `Estimate`; its standard error does not contain that of a too small `num_steps`.

    Raises:
        ValueError: where an argument does not fit, or $A + \delta I$ is not positive definite.
    """
    damping = check_number("damping", damping, above=0)
    density = spectral_density(
        operator,
        num_probes=num_probes,
        num_steps=num_steps,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )
    smallest = min(nodes[0] for nodes in density.nodes)
    if smallest + damping <= 0:
        raise ValueError(
            "`damping` must make the matrix positive definite, so be above "
            f"{-smallest:.4g} here. Received: damping={damping!r}"
        )
    return density.expectation(lambda nodes: np.log(nodes + damping))
