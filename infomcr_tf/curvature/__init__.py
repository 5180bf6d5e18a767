"""Matrix-free curvature of the mean loss: Hessian, Gauss-Newton and Fisher matrices."""

from infomcr_tf.curvature.eigenvalues import top_eigenvalues
from infomcr_tf.curvature.fisher_operator import FisherOperator
from infomcr_tf.curvature.gauss_newton import GaussNewtonOperator
from infomcr_tf.curvature.hessian import HessianOperator
from infomcr_tf.curvature.layer_blocks import layer_blocks
from infomcr_tf.curvature.log_determinant import log_determinant
from infomcr_tf.curvature.spectral_density import SpectralDensity, spectral_density
from infomcr_tf.curvature.trace import (
    Estimate,
    squared_frobenius_norm,
    trace,
    trace_and_squared_norm,
)

__all__ = [
    "Estimate",
    "FisherOperator",
    "GaussNewtonOperator",
    "HessianOperator",
    "SpectralDensity",
    "layer_blocks",
    "log_determinant",
    "spectral_density",
    "squared_frobenius_norm",
    "top_eigenvalues",
    "trace",
    "trace_and_squared_norm",
]
