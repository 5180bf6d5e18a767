"""The spectral density by stochastic Lanczos quadrature."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from infomcr_tf.arguments import check_argument, check_integer, check_number
from infomcr_tf.curvature.lanczos import lanczos
from infomcr_tf.curvature.probes import probe_results, signs
from infomcr_tf.curvature.trace import Estimate
from infomcr_tf.pictures import grid, house_style, save_picture

_GRID = 2048
_SIGMAS = 400  # the range of the nodes in widths of the default Gaussian


@dataclass(frozen=True)
class SpectralDensity:
    r"""The density of the eigenvalues of a symmetric matrix, which integrates to 1.

    Each probe z gives a Gauss quadrature of its spectral measure, m nodes $\theta_i$ with weights
    $\tau_i$; the density is the mean over probes of $\sum_i \tau_i \, N(t; \theta_i, \sigma^2)$.

    Attributes:
        size: W, the number of eigenvalues.
        nodes: for each probe $\theta$ [m], ascending.
        weights: for each probe $\tau$ [m], summing to 1.
        sigma: the standard deviation of the Gaussians, in units of the eigenvalues.
    """

    size: int
    nodes: list[np.ndarray]
    weights: list[np.ndarray]
    sigma: float

    @cached_property
    def grid(self) -> np.ndarray:
        """Eigenvalues at which the density is given, equally spaced, float64 [2048]."""
        low = min(node[0] for node in self.nodes) - 5 * self.sigma
        high = max(node[-1] for node in self.nodes) + 5 * self.sigma
        return np.linspace(low, high, _GRID)

    @cached_property
    def density(self) -> np.ndarray:
        """The density on `grid`, per unit of the eigenvalues."""
        total = np.zeros(_GRID)
        for nodes, weights in zip(self.nodes, self.weights, strict=True):
            distance = (self.grid[:, None] - nodes) / self.sigma
            total += np.exp(-0.5 * distance**2) @ weights
        return total / (len(self.nodes) * self.sigma * np.sqrt(2 * np.pi))

    def expectation(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        r"""Estimates $\mathrm{tr} f(A) = \sum_i f(\lambda_i)$ from the unsmoothed quadrature."""
        samples = np.array(
            [self.size * (w @ function(t)) for t, w in zip(self.nodes, self.weights, strict=True)]
        )
        error = samples.std(ddof=1) / np.sqrt(len(samples)) if len(samples) > 1 else np.nan
        return Estimate(float(samples.mean()), float(error))

    @house_style()
    def plot(self, path: str | os.PathLike | None = None, ax: Any = None) -> Any:
        """Draws the density on a logarithmic axis.

        Args:
            path: where to save the picture; None saves none.
            ax: Matplotlib axes to draw on; None makes a figure.

        Returns:
            The picture, or the figure of `ax`.
        """
        if ax is None:
            _, axes = grid(1, 1, width=7, height=3.6)
            ax = axes[0, 0]
        ax.semilogy(self.grid, self.density)
        # What lies below one eigenvalue's share in a thousand is the tail of a Gaussian.
        peak = 1 / (self.size * self.sigma * np.sqrt(2 * np.pi))
        ax.set_ylim(bottom=1e-3 * peak)
        ax.set_xlabel("eigenvalue")
        ax.set_ylabel("density")
        if path is not None:
            save_picture(ax.figure, path)
        return ax.figure


def spectral_density(
    operator: LinearOperator,
    *,
    num_probes: int = 1,
    num_steps: int = 60,
    sigma: float | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
) -> SpectralDensity:
    """Estimates the density of the eigenvalues by stochastic Lanczos quadrature.

    From each probe, a vector of random signs, `num_steps` steps of the Lanczos process with full
    reorthogonalisation (Ghorbani, Krishnan and Xiao, *An investigation into neural net optimization
    via Hessian eigenvalue density*, 2019; Ubaru, Chen and Saad 2017). The basis takes
    `8 * num_steps * W` bytes.

    Args:
        operator: symmetric [W, W].
        num_probes: probes; one is nearly enough for large W, several give `expectation` an error.
        num_steps: m, the products of one probe. The ends of the spectrum converge first.
        sigma: width of the Gaussians, in units of the eigenvalues; default 1/400 of the range.
        seed: of the random signs.
        checkpoint: a folder in which finished probes are kept; the same call resumes from them.
        progress: show a progress bar over the probes.

    Returns:
        A `SpectralDensity`: `.grid`, `.density`, `.plot()`.

    Raises:
        ValueError: where an argument does not fit.
    """
    num_probes = check_argument("num_probes", num_probes)
    num_steps = check_integer("num_steps", num_steps, minimum=1)
    check_argument("seed", seed)
    if sigma is not None:
        sigma = check_number("sigma", sigma, above=0)
    size = operator.shape[0]

    def quadrature(index: int) -> dict[str, np.ndarray]:
        *_, ritz = lanczos(operator.matvec, signs(size, seed, index), num_steps)
        return {"nodes": ritz.values, "weights": ritz.weights}

    results = list(
        probe_results(
            operator,
            quadrature,
            num_probes,
            title="spectral density",
            settings=f"{num_steps} steps seed {seed}",
            checkpoint=checkpoint,
            progress=progress,
        )
    )
    nodes = [result["nodes"] for result in results]
    if sigma is None:
        extent = max(t[-1] for t in nodes) - min(t[0] for t in nodes)
        largest = max(np.abs(t).max() for t in nodes)
        sigma = (extent or largest or 1.0) / _SIGMAS
    return SpectralDensity(size, nodes, [result["weights"] for result in results], float(sigma))
