"""The diagonal blocks of a curvature matrix, one a layer."""

import numpy as np
from scipy.sparse.linalg import LinearOperator

from infomcr_tf.curvature.operator import CurvatureOperator


class BlockOperator(LinearOperator):
    r"""The diagonal block $A_{ll} = E_l^T A E_l$ of some of the weights, [W_l, W_l].

    $E_l$ pads a vector with zeros for all other weights, so a product costs one with A.

    Args:
        operator: A, symmetric [W, W].
        indices: [W_l] of the block's rows, ascending.
    """

    def __init__(self, operator: LinearOperator, indices: np.ndarray) -> None:
        self._operator, self._indices = operator, np.asarray(indices)
        super().__init__(np.dtype(np.float64), (len(self._indices),) * 2)

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        return self._matmat(np.reshape(v, [-1, 1]))[:, 0]

    def _matmat(self, V: np.ndarray) -> np.ndarray:
        padded = np.zeros((self._operator.shape[0], V.shape[1]))
        padded[self._indices] = V
        return self._operator.matmat(padded)[self._indices]

    def _adjoint(self) -> "BlockOperator":
        return self

    _transpose = _adjoint

    def fingerprint(self) -> str:
        """Identifies the block: see `CurvatureOperator.fingerprint`."""
        return f"{self._operator.fingerprint()} {self._indices[0]}-{self._indices[-1]}"


def layer_blocks(operator: CurvatureOperator) -> dict[str, BlockOperator]:
    """Returns the operator of each layer's diagonal block.

    `top_eigenvalues`, `trace` and all others work on them as on the whole.

    Args:
        operator: a Hessian, Gauss-Newton or Fisher operator.

    Returns:
        By the layer's name (of layers inside of others the path, "attention/query"), in the order
        of the weights; a weight that layers share belongs to the first.

    Raises:
        TypeError: where the operator is no `CurvatureOperator`, and so has no layers.
    """
    if not isinstance(operator, CurvatureOperator):
        raise TypeError(
            "`operator` must be a HessianOperator, GaussNewtonOperator or FisherOperator. "
            f"Received: {type(operator).__name__}"
        )
    ends = np.cumsum(operator.network.sizes)
    ranges = [
        np.arange(end - size, end) for end, size in zip(ends, operator.network.sizes, strict=True)
    ]
    return {
        layer: BlockOperator(operator, np.concatenate([ranges[i] for i in indices]))
        for layer, indices in operator.network.layer_indices().items()
    }
