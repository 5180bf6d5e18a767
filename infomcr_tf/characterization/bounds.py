"""What follows from gamma: Theorem 1, the FIA criterion, and gamma from gamma-hat.

Everything is computed in logarithms: for a network gamma is of the order of -10^6 and
`exp(gamma)` or `Gamma(W / 2 + 1)` have no floating-point value, while their W-th roots do.
Source: Jia & Su, "Information-Theoretic Local Minima Characterization and Regularization",
ICML 2020, sections 5.1.1, 5.2, 5.3 and appendices B, C.
"""

import math
import warnings
from dataclasses import dataclass

from infomcr_tf.arguments import check_argument, check_integer, check_number, is_real

# "Close-to-zero training loss" has no figure in the paper. Its own runs end below 0.01; ten times
# that is where we stop believing that a minimum is meant.
_FAR_FROM_ZERO = 0.1


@dataclass(frozen=True)
class GeneralizationBound:
    """Both sides of Theorem 1 that can be computed.

    Attributes:
        A: `W V^(2/W) pi^(1/W) exp(gamma/W) / (4 pi e)`, as printed (Stirling's approximation).
        gap: `2 sqrt((2 L0 + 2 A + ln(2N/delta)) / (N-1))`, what the theorem adds to the expected
            training loss.
        bound: expected training loss under the posterior, plus `gap`.
        exact_A: the height above `L0` without Stirling's approximation,
            `(V Gamma(W/2 + 1))^(2/W) exp(gamma/W) / (2 pi)`.
        exact_gap: `gap` with `exact_A`.
        exact_bound: `bound` with `exact_A`.
    """

    A: float
    gap: float
    bound: float
    exact_A: float  # noqa: N815
    exact_gap: float
    exact_bound: float


@dataclass(frozen=True)
class FisherInformationApproximation:
    """The FIA criterion and its three terms, in nats; `value` is their sum.

    Attributes:
        data_term: `-sum E ln p(x, c_x; w0) = N L0 + N ln N` (with p(x) = 1/N, section 4).
        parameter_term: `(W / 2) ln(N / (2 pi))`.
        volume_term: `ln V + gamma / 2`, the integral for a loss that is quadratic in M(w0).
    """

    data_term: float
    parameter_term: float
    volume_term: float

    @property
    def value(self) -> float:
        """The criterion; lower is better."""
        return self.data_term + self.parameter_term + self.volume_term


def gamma_from_gamma_hat(gamma_hat: float, *, num_parameters: int, num_samples: int) -> float:
    """Gives the estimate of gamma that a value of gamma-hat stands for (section 5.3).

    `gamma = (W / N') gamma_hat + W ln(1 / W)`: the N' eigenvalues of xi / W stand for all W.

    Args:
        gamma_hat: mean of `ln|xi|` over the trials (Eq. 6), natural logarithm.
        num_parameters: W, the number of trainable parameters.
        num_samples: N', the number of examples in one trial.

    Returns:
        gamma, a float (nats).

    Raises:
        ValueError: where W or N' is no integer above 0, or gamma_hat no number.
    """
    W = check_integer("num_parameters", num_parameters, minimum=1)
    samples = check_argument("num_samples", num_samples)
    if not is_real(gamma_hat):  # nan, where no trial could be measured, stays nan
        raise ValueError(f"`gamma_hat` must be a number. Received: gamma_hat={gamma_hat!r}")
    return W / samples * float(gamma_hat) - W * math.log(W)


def generalization_bound(
    gamma: float,
    *,
    num_parameters: int,
    num_examples: int,
    train_loss: float,
    log_volume: float = 0.0,
    delta: float = 0.05,
    posterior_train_loss: float | None = None,
    train_accuracy: float | None = None,
    max_loss: float | None = None,
) -> GeneralizationBound:
    """Computes the PAC-Bayes bound of Theorem 1.

    With probability at least 1 - delta,
    `E_Q[L(D, w)] <= E_Q[L(S, w)] + 2 sqrt((2 L0 + 2 A + ln(2N / delta)) / (N - 1))`.

    The bound speaks of the mean over the posterior Q on the neighbourhood M(w0) of volume V, and
    of a quadratic loss there. Its `L0` (and `2 L0` under the root) is the training loss at w0.

    Args:
        gamma: `ln|I_S(w0)|` (Eq. 3); see `gamma_from_gamma_hat`. May be -inf.
        num_parameters: W.
        num_examples: N, the size of the training set S.
        train_loss: `L0 = L(S, w0)`, mean cross-entropy in nats.
        log_volume: `ln V`; 0 is V = 1. Logarithmic, because `V^(2/W)` only moves for volumes that
            have no floating-point value.
        delta: the bound holds with probability at least `1 - delta`.
        posterior_train_loss: `E_Q[L(S, w)]`. By default its upper bound, the height
            `h = L0 + A` of M(w0).
        train_accuracy: share of S that is classified correctly, to check the theorem's assumption.
        max_loss: largest loss that one example can have. The theorem is for losses in [0, 1]; by
            default the loss is taken to be the cross-entropy, which has no largest value, and
            a warning says so.

    Returns:
        A `GeneralizationBound`, with Stirling's approximation (as printed) and without.

    Raises:
        ValueError: where an argument is outside its range.
    """
    W = check_integer("num_parameters", num_parameters, minimum=1)
    N = check_integer("num_examples", num_examples, minimum=2)
    train_loss = check_number("train_loss", train_loss, minimum=0)
    gamma, log_volume = _number("gamma", gamma), _number("log_volume", log_volume)
    delta = check_number("delta", delta, above=0, maximum=1)
    if posterior_train_loss is not None:
        posterior_train_loss = check_number("posterior_train_loss", posterior_train_loss, minimum=0)
    if train_accuracy is not None:
        train_accuracy = check_number("train_accuracy", train_accuracy, minimum=0)
    if max_loss is not None:
        max_loss = check_number("max_loss", max_loss, minimum=0)
    _warn_where_assumptions_fail(train_loss, train_accuracy, max_loss)

    shared = (2 * log_volume + gamma) / W
    A = _exp(math.log(W) + math.log(math.pi) / W + shared - math.log(4 * math.pi * math.e))
    exact_A = _exp(2 / W * math.lgamma(W / 2 + 1) + shared - math.log(2 * math.pi))

    def gap(a: float) -> float:
        return 2 * math.sqrt((2 * train_loss + 2 * a + math.log(2 * N / delta)) / (N - 1))

    def bound(a: float) -> float:
        expected = train_loss + a if posterior_train_loss is None else posterior_train_loss
        return expected + gap(a)

    return GeneralizationBound(A, gap(A), bound(A), exact_A, gap(exact_A), bound(exact_A))


def fisher_information_approximation(
    gamma: float,
    *,
    num_parameters: int,
    num_examples: int,
    train_loss: float,
    log_volume: float = 0.0,
) -> FisherInformationApproximation:
    """Computes the FIA criterion of the model class M(w0) (section 5.1.1; Rissanen 1996).

    `FIA = -sum E ln p(x, c_x; w0) + (W/2) ln(N / (2 pi)) + ln int_M(w0) sqrt|J(w)| dw`. For a
    quadratic loss the Fisher information is constant on M(w0) and the last term is
    `ln V + gamma / 2`, with the observed information in the place of the expected one.

    Args:
        gamma: `ln|I_S(w0)|` (Eq. 3). May be -inf.
        num_parameters: W.
        num_examples: N.
        train_loss: `L(S, w0)`, mean cross-entropy in nats.
        log_volume: `ln V`; 0 is V = 1.

    Returns:
        A `FisherInformationApproximation`: the three terms and their sum `value`. Between networks
        of one architecture on one training set only `N L0` and `gamma / 2` differ.

    Raises:
        ValueError: where an argument is outside its range.
    """
    W = check_integer("num_parameters", num_parameters, minimum=1)
    N = check_integer("num_examples", num_examples, minimum=1)
    train_loss = check_number("train_loss", train_loss, minimum=0)
    gamma, log_volume = _number("gamma", gamma), _number("log_volume", log_volume)
    return FisherInformationApproximation(
        data_term=N * train_loss + N * math.log(N),
        parameter_term=W / 2 * math.log(N / (2 * math.pi)),
        volume_term=log_volume + gamma / 2,
    )


def _warn_where_assumptions_fail(
    train_loss: float, train_accuracy: float | None, max_loss: float | None
) -> None:
    if max_loss is None:
        _warn(
            "the PAC-Bayes theorem is for losses in [0, 1] and the cross-entropy has no upper "
            "bound; read the result as the paper does, or pass `max_loss` of a bounded loss."
        )
    elif max_loss > 1:
        _warn(f"the PAC-Bayes theorem is for losses in [0, 1]. Received: max_loss={max_loss:g}.")
    if train_loss > _FAR_FROM_ZERO:
        _warn(
            "w0 is assumed to be a local minimum of close-to-zero training loss. "
            f"Received: train_loss={train_loss:g}."
        )
    if train_accuracy is not None and train_accuracy < 1:
        _warn(
            "w0 is assumed to classify all of the training set correctly. "
            f"Received: train_accuracy={train_accuracy:g}."
        )


def _warn(message: str) -> None:
    # 4: past this function, the check and `generalization_bound`, to the caller's line.
    warnings.warn("Theorem 1: " + message, UserWarning, stacklevel=4)


def _exp(exponent: float) -> float:
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf


def _number(name: str, value: float) -> float:
    if not is_real(value) or math.isnan(value):
        raise ValueError(f"`{name}` must be a number. Received: {name}={value!r}")
    return float(value)
