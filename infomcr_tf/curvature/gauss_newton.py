"""The generalised Gauss-Newton matrix."""

from typing import Any

import tensorflow as tf

from infomcr_tf.curvature.derivatives import pull_back, push_forward
from infomcr_tf.curvature.operator import CurvatureOperator


class GaussNewtonOperator(CurvatureOperator):
    r"""The generalised Gauss-Newton matrix: the Hessian of the mean loss of the linearised network.

    $$ G = \frac{1}{N} \sum_{n=1}^N J_n^T \, \nabla_z^2 \ell(z_n, y_n) \, J_n, \qquad
       J_n = \partial z_n / \partial w, \quad z_n = f_w(x_n) $$

    For the cross-entropy of logits, $\nabla_z^2 \ell = \mathrm{diag}(p) - p p^T$: G is positive
    semidefinite, does not depend on the labels, and is the Fisher matrix under the model's own
    distribution, $\frac{1}{N} \sum_n E_{y \sim p_n} [g g^T]$ with g the gradient of the
    cross-entropy (Martens, *New insights and perspectives on the natural gradient method*, JMLR
    2020). Arguments and errors are those of `CurvatureOperator`.
    """

    def _product(
        self, x: Any, y: tf.Tensor, v: list[tf.Tensor]
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        values = self._values()
        with tf.GradientTape(persistent=True) as tape:
            logits = self._logits(x)
        with tf.GradientTape() as outer:
            outer.watch(logits)
            with tf.GradientTape() as inner:
                inner.watch(logits)
                losses, scale = self._scaled_losses(logits, y)
            slopes = pull_back(inner, [losses], [logits])
        cotangents = pull_back(outer, slopes, [logits], [push_forward(tape, logits, values, v)])
        return pull_back(tape, [logits], values, cotangents), losses, scale
