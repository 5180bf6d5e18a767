"""The whole Fisher matrix, for networks small enough to hold it: Eq. 1, and gamma itself.

With it the chain from Eq. 1 to gamma-hat can be checked on a small network, and one can see where
Assumption 1 (a Fisher matrix that is not singular) fails. It fails for every network that ends in
a softmax over K trainable logits: adding the same vector to the weights of all K logits changes
nothing. See docs/theory.md.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.gradients.examples import check_examples, num_examples, take
from infomcr_tf.gradients.network import Network

# A float64 matrix of this many rows takes 200 MB, and the Hessian this many backward passes.
MAX_PARAMETERS = 5000


def exact_fisher(model: keras.Model, x: Any, y: Any) -> np.ndarray:
    """Computes the observed Fisher information of Eq. 1, with the weights y_i of appendix A.

    `I_S(w) = (1/N) sum_(x,y) sum_i y_i  grad ln p_i(x)  grad ln p_i(x)^T`, BatchNorm in inference
    mode. (Eq. 2 is printed without the weights y_i; Eq. 1, an expectation over c_x ~ y, and the
    proof in appendix A have them.)

    Args:
        model: a built Keras model with one output [n, K], logits or a softmax of logits, and at
            most 5,000 trainable parameters.
        x: one array [N, ...], or a list, tuple or dict of arrays.
        y: integer labels [N], or probabilities [N, K] that sum to 1 (label smoothing).

    Returns:
        float64 [W, W], rows and columns in the order of the flattened `model.trainable_variables`.

    Raises:
        ValueError: where the model is too large or the examples do not fit it.
    """
    roots = _fisher_roots(model, x, y)
    return roots.T @ roots


def exact_gamma(model: keras.Model, x: Any, y: Any, *, pseudo: bool = False) -> float:
    """Computes gamma = `ln|I_S(w)|` (Eq. 3) from the whole Fisher matrix of Eq. 1.

    Args:
        model: see `exact_fisher`.
        x: see `exact_fisher`.
        y: see `exact_fisher`.
        pseudo: sum the logarithms of the non-zero eigenvalues only (the pseudo-determinant).

    Returns:
        gamma, natural logarithm. Where the matrix is singular, which Assumption 1 excludes: -inf
        and a warning with the rank.

    Raises:
        ValueError: see `exact_fisher`.
    """
    roots = _fisher_roots(model, x, y)
    singular_values = np.linalg.svd(roots, compute_uv=False)
    num_parameters = roots.shape[1]
    # The rank rule of LAPACK's users: roundings of the dtype that the gradients came in.
    epsilon = np.finfo(np.dtype(model.trainable_variables[0].dtype)).eps
    kept = singular_values[singular_values > singular_values[0] * max(roots.shape) * epsilon]
    if len(kept) < num_parameters and not pseudo:
        warnings.warn(
            f"the Fisher matrix is singular: rank {len(kept)} of {num_parameters}. Assumption 1 "
            "fails and gamma is -inf; `pseudo=True` leaves the zero eigenvalues out.",
            UserWarning,
            stacklevel=2,
        )
        return -math.inf
    return float(2 * np.sum(np.log(kept)))


def exact_hessian(model: keras.Model, x: Any, y: Any) -> np.ndarray:
    """Computes the Hessian of L(S, w) by double differentiation, BatchNorm in inference mode.

    Args:
        model: see `exact_fisher`.
        x: see `exact_fisher`.
        y: see `exact_fisher`.

    Returns:
        float64 [W, W], in the order of `exact_fisher`.

    Raises:
        ValueError: see `exact_fisher`.
    """
    network, x, weights = _prepare(model, x, y)
    values = [variable.value for variable in network.variables]

    @tf.function(autograph=False)
    def hessian(x: Any, weights: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(persistent=True) as outer:
            with tf.GradientTape() as inner:
                log_p = tf.nn.log_softmax(tf.cast(network.logits(x), tf.float64))
                loss = -tf.reduce_mean(tf.reduce_sum(weights * log_p, axis=-1))
            gradient = _join(inner.gradient(loss, values), values, lead=[])
        rows = outer.jacobian(gradient, values, experimental_use_pfor=False)
        return _join(rows, values, lead=[-1])

    x = keras.tree.map_structure(tf.convert_to_tensor, x)
    matrix = hessian(x, tf.constant(weights)).numpy().astype(np.float64)
    return (matrix + matrix.T) / 2


def fisher_hessian_difference(model: keras.Model, x: Any) -> float:
    """Checks Eq. 1 where its assumption f = y holds (appendix A).

    The labels are set to the model's own probabilities, at which the Fisher matrix and the Hessian
    of the cross-entropy are equal.

    Args:
        model: see `exact_fisher`.
        x: see `exact_fisher`.

    Returns:
        `||I - H||_F / ||H||_F`: rounding only, if the derivatives are right.

    Raises:
        ValueError: see `exact_fisher`.
    """
    probabilities = tf.nn.softmax(tf.cast(Network(model).logits(x), tf.float64)).numpy()
    hessian = exact_hessian(model, x, probabilities)
    difference = exact_fisher(model, x, probabilities) - hessian
    return float(np.linalg.norm(difference) / np.linalg.norm(hessian))


def _fisher_roots(model: keras.Model, x: Any, y: Any) -> np.ndarray:
    """R [N K, W] with `R^T R` the Fisher matrix: rows `sqrt(y_i / N) grad ln p_i(x)`."""
    network, x, weights = _prepare(model, x, y)
    jacobian = _logit_jacobian(network)
    roots = []
    for index, weight in enumerate(weights):
        example = keras.tree.map_structure(tf.convert_to_tensor, take(x, [index]))
        logits, rows = jacobian(example)
        log_p = tf.nn.log_softmax(tf.cast(logits[0], tf.float64)).numpy()
        to_log_p = _log_softmax_jacobian(np.exp(log_p))
        scale = np.sqrt(weight / len(weights))[:, None]
        roots.append(scale * (to_log_p @ rows.numpy().astype(np.float64)))
    return np.concatenate(roots)


def _log_softmax_jacobian(p: np.ndarray) -> np.ndarray:
    """D ln p_i / d z_k = 1[i = k] - p_k, with `1 - p_i` summed from the other classes."""
    off_diagonal = np.tile(-p, (len(p), 1))
    np.fill_diagonal(off_diagonal, 0.0)
    return off_diagonal + np.diag(-off_diagonal.sum(axis=1))


def _logit_jacobian(network: Network) -> Callable:
    """A function from one example to its logits [1, K] and their Jacobian [K, W]."""
    values = [variable.value for variable in network.variables]

    @tf.function(autograph=False)
    def jacobian(example: Any) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(persistent=True) as tape:
            logits = network.logits(example)
        # A loop over K, not pfor: some layers' gradients cannot be vectorised.
        rows = tape.jacobian(logits, values, experimental_use_pfor=False)
        return logits, _join(rows, values, lead=[-1])

    return jacobian


def _join(parts: list, values: list[tf.Variable], lead: list[int]) -> tf.Tensor:
    flat = []
    for part, value in zip(parts, values, strict=True):
        size = math.prod(value.shape)
        flat.append(tf.reshape(tf.convert_to_tensor(part), [*lead, size]))
    return tf.concat(flat, axis=-1)


def _prepare(model: keras.Model, x: Any, y: Any) -> tuple[Network, Any, np.ndarray]:
    network = Network(model)
    x, labels = check_examples(model, x, y)
    num_parameters = sum(network.sizes)
    if num_parameters > MAX_PARAMETERS:
        raise ValueError(
            f"the whole Fisher matrix is for at most {MAX_PARAMETERS} trainable parameters. "
            f"Received: a model with {num_parameters}. Use `characterize`, or freeze layers."
        )
    num_classes = network.check_logits(x)
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        weights = y.astype(np.float64)
        # Float32 probabilities sum to 1 up to K roundings.
        tolerance = y.shape[1] * np.finfo(np.float32).eps
        if (weights < 0).any() or (np.abs(weights.sum(axis=1) - 1) > tolerance).any():
            raise ValueError("`y` [N, K] must hold probabilities that sum to 1.")
        return network, x, weights
    weights = np.zeros((num_examples(x), num_classes))
    weights[np.arange(len(labels)), labels] = 1
    return network, x, weights
