"""The Hessian of the mean loss."""

from typing import Any

import numpy as np
import tensorflow as tf

from infomcr_tf.curvature.derivatives import pull_back
from infomcr_tf.curvature.operator import CurvatureOperator
from infomcr_tf.gradients.examples import take
from infomcr_tf.normalization_kernels import check_second_derivatives

_NUM_CHECKED = 8
_ASYMMETRY = {tf.float64: 1e-9}
_ASYMMETRY_FLOAT32 = 1e-3


class HessianOperator(CurvatureOperator):
    r"""The Hessian of the mean loss, symmetric and in general indefinite.

    $$ H = \nabla_w^2 \, \frac{1}{N} \sum_{n=1}^N \ell(f_w(x_n), y_n) $$

    without weight decay and other terms that do not depend on the data. Products $H v$ are the
    derivative of $\langle \nabla L, v \rangle$ (Pearlmutter, *Fast exact multiplication by the
    Hessian*, Neural Computation 1994). Of a piecewise-linear network it is the Hessian of the piece
    that the weights are in; what the model puts under `tf.stop_gradient` counts as constant, as it
    does for the gradient. Arguments and errors are those of `CurvatureOperator`.

    Raises:
        ValueError: also where the second derivatives that TensorFlow gives are not symmetric, and
            so wrong: a custom gradient that is not that of the values.
    """

    def _product(
        self, x: Any, y: tf.Tensor, v: list[tf.Tensor]
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        values = self._values()
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                losses, scale = self._scaled_losses(self._logits(x), y)
            gradient = pull_back(inner, [losses], values)
        return pull_back(outer, gradient, values, v), losses, scale

    def _check_function(self) -> None:
        """Looks for what is known to be wrong; compares u^T H v with v^T H u on a few examples."""
        check_second_derivatives(self._function.get_concrete_function().graph)
        x, y = (take(part, slice(_NUM_CHECKED)) for part in self._examples.first)
        u, v = np.random.default_rng(0).choice([-1.0, 1.0], size=(2, self.shape[1]))
        Hu, Hv = (self._function(x, y, w)[1].numpy() for w in (u, v))
        tolerance = _ASYMMETRY.get(self.network.variables[0].value.dtype, _ASYMMETRY_FLOAT32)
        # Of vectors of signs, both norms estimate ||H||_F, and the difference that of H - H^T.
        if abs(u @ Hv - v @ Hu) > tolerance * max(np.linalg.norm(Hu), np.linalg.norm(Hv)):
            raise ValueError(
                "`model` must have second derivatives. Received: a model whose Hessian comes out "
                "asymmetric, as it does where a custom gradient is not that of the layer's values. "
                "`GaussNewtonOperator` needs first derivatives only"
            )
