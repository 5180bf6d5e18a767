"""The empirical Fisher matrix."""

from typing import Any

import tensorflow as tf

from infomcr_tf.curvature.derivatives import pull_back, push_forward
from infomcr_tf.curvature.operator import CurvatureOperator


class FisherOperator(CurvatureOperator):
    r"""The empirical Fisher matrix: the mean of the outer products of per-example gradients.

    $$ F = \frac{1}{N} \sum_{n=1}^N g_n g_n^T = \frac{1}{N} J^T J, \qquad
       g_n = \nabla_w \, \ell(f_w(x_n), y_n) $$

    With J [N, W] as in Eq. 5 of the paper, $\xi / N = J J^T / N$ has the same non-zero eigenvalues.
    For the cross-entropy this is the observed Fisher information of Eq. 2, with one-hot labels in
    the place of the model's distribution (`GaussNewtonOperator`). Products are $J^T (J v) / N$.
    In "batch" mode $g_n$ is the gradient through the statistics of the whole batch. Arguments and
    errors are those of `CurvatureOperator`.
    """

    _degree = 2

    def _product(
        self, x: Any, y: tf.Tensor, v: list[tf.Tensor]
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        values = self._values()
        with tf.GradientTape(persistent=True) as tape:
            losses, scale = self._scaled_losses(self._logits(x), y)
        slopes = push_forward(tape, losses, values, v)
        return pull_back(tape, [losses], values, [slopes]), losses, scale
