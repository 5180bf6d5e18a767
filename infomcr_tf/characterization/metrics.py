"""The metrics: what each sample S^t gives, and the row of each in the table.

To add a metric, write a function of a `TrialSpectrum` and its row at the end of this file; the
report, the callback, the tables, the plots and the experiments read the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from infomcr_tf.characterization.bounds import gamma_from_gamma_hat
from infomcr_tf.characterization.metric_table import Metric, Number, register_metric
from infomcr_tf.characterization.trial_spectrum import TrialSpectrum
from infomcr_tf.curvature import top_eigenvalues

if TYPE_CHECKING:
    from infomcr_tf.characterization.report import MinimumReport

NUM_ENTRIES = 100_000  # of g g^T, in appendix D's estimate of the Frobenius norm


def gamma_hat(trial: TrialSpectrum) -> float:
    """`ln|xi|` (Eq. 6 before the mean over trials), natural logarithm; -inf where singular."""
    return trial.gram.logdet


def spectral_radius(trial: TrialSpectrum) -> float:
    """`lambda_max(xi) = ||J||_2^2` (appendix D, constants dropped: not divided by N')."""
    return trial.scale * trial.scaled.largest


def frobenius_norm(trial: TrialSpectrum) -> float:
    """`(1/N') sum_j ||g_j g_j^T||_F^2 = (1/N') sum_j ||g_j||^4` (appendix D), exact."""
    return float(np.mean(np.exp(4 * trial.gram.log_norms)))


def frobenius_norm_cross(trial: TrialSpectrum) -> float:
    """`||xi / N'||_F^2 = ||J^T J / N'||_F^2`: the Fisher matrix of S^t with its cross terms."""
    return trial.scale**2 * trial.scaled.squares / trial.num_examples**2


def fisher_trace(trial: TrialSpectrum) -> float:
    """`tr(xi) / N' = (1/N') sum_j ||g_j||^2`: the trace of the Fisher matrix of S^t (section 6)."""
    return float(np.mean(np.exp(2 * trial.gram.log_norms)))


def rank(trial: TrialSpectrum) -> int:
    """The numerical rank of xi with unit rows."""
    return int(trial.gram.rank)


def rank_tolerance(trial: TrialSpectrum) -> float:
    """The eigenvalue of xi with unit rows below which it counts as zero in the rank."""
    return float(trial.gram.rank_tolerance)


def am_gm_gap(trial: TrialSpectrum) -> float:
    """The gap between arithmetic and geometric mean of the eigenvalues of xi / N' (section 6).

    `tr(I)/|B| - prod_i lambda_i^(1/|B|)` with B = S^t and lambda_i the eigenvalues of I = xi / N':
    how far the trace, which the regulariser minimises, is from the determinant it stands for.
    """
    n = trial.num_examples
    arithmetic = trial.scale / n * trial.scaled.mean
    with np.errstate(over="ignore"):
        geometric = float(np.exp(trial.gram.logdet / n)) / n
    return arithmetic - geometric


def am_gm_bound(trial: TrialSpectrum) -> float:
    """The bound of `am_gm_gap`: `sqrt(|B| - 1) sigma`, sigma the eigenvalues' population std."""
    n = trial.num_examples
    return float(np.sqrt(n - 1)) * trial.scale / n * trial.scaled.std


def frobenius_norm_sampled(trial: TrialSpectrum) -> float:
    """`sampled_frobenius_norm` of the trial."""
    # Both are set for every trial that is measured.
    assert trial.row_blocks is not None and trial.generator is not None
    return sampled_frobenius_norm(
        trial.row_blocks(), num_parameters=trial.num_parameters, generator=trial.generator
    )


def sampled_frobenius_norm(
    row_blocks: Iterable[tuple[slice, np.ndarray, np.ndarray]],
    *,
    num_parameters: int,
    generator: np.random.Generator,
    num_entries: int = NUM_ENTRIES,
) -> float:
    """Estimates `(1/N') sum_j ||g_j g_j^T||_F^2` from sampled entries, as the paper does.

    Each of the entries is that of a uniformly drawn example j, row a and column b, so the mean of
    `(g_ja g_jb)^2` times W^2 is an unbiased estimate. What it estimates is known exactly, at less
    cost, as the mean of `||g_j||^4`: this is for comparison with the paper.

    Args:
        row_blocks: the rows of J, as `GradientEngine.row_blocks` gives them.
        num_parameters: W.
        generator: draws the entries.
        num_entries: how many.

    Returns:
        The estimate, float64.
    """
    rows: np.ndarray | None = None
    entries: Any = None
    factors: Any = None
    scales: Any = None
    for columns, block, log_scales in row_blocks:
        if rows is None:
            rows = generator.integers(len(block), size=num_entries)
            entries = generator.integers(num_parameters, size=(2, num_entries))
            factors = np.zeros((2, num_entries))
            scales = np.exp(log_scales[rows])
        for factor, entry in zip(factors, entries, strict=True):
            inside = np.flatnonzero((entry >= columns.start) & (entry < columns.stop))
            factor[inside] = block[rows[inside], entry[inside] - columns.start]
    values = (scales * factors[0]) * (scales * factors[1])
    return float(num_parameters) ** 2 * float(np.mean(values**2))


def hessian_spectral_radius(trial: TrialSpectrum) -> float:
    """`max |lambda|` of the Hessian of the sample's mean loss, by Lanczos at tolerance 1e-3."""
    values, _ = top_eigenvalues(trial.hessian, which="LM", seed=trial.hessian_seed, progress=False)
    return float(abs(values[0]))


def hessian_trace(trial: TrialSpectrum) -> float:
    """The trace of the same matrix, unbiased, by Hutch++ from 30 products."""
    return trial.hessian_moments[0].value


def hessian_frobenius_norm(trial: TrialSpectrum) -> float:
    """`||H||_F^2` of the same matrix, unbiased, from the products of the trace."""
    return trial.hessian_moments[1].value


def _gamma_hat_std(report: MinimumReport) -> float | None:
    """Standard deviation of `ln|xi^t|` over the trials; nan where one is not finite."""
    values = report.trials.get("gamma_hat")
    if values is None:
        return None
    return float(np.std(values)) if np.all(np.isfinite(values)) else float("nan")


def _gamma(report: MinimumReport) -> float | None:
    """Section 5.3: `(W / N') gamma_hat + W ln(1 / W)`, the estimate of `ln|I_S(w0)|`."""
    if "gamma_hat" not in report.trials:
        return None
    # With excluded examples N' differs from trial to trial, so the mean is taken here.
    with np.errstate(invalid="ignore"):
        per_example = report.trials["gamma_hat"] / report.trials["num_kept"]
    return gamma_from_gamma_hat(
        float(np.mean(per_example)), num_parameters=report.num_parameters, num_samples=1
    )


def _log_singular_value_sum(report: MinimumReport) -> float | None:
    """Sum of ln(singular values of J), which the authors' code prints: half of gamma_hat."""
    return None if report.gamma_hat is None else report.gamma_hat / 2


def _fisher_spectral_radius(report: MinimumReport) -> float | None:
    """Mean over T of `lambda_max(xi^t / N')`: the Fisher matrix of S^t, constants kept."""
    if "spectral_radius" not in report.trials:
        return None
    return float(np.mean(report.trials["spectral_radius"] / report.trials["num_kept"]))


def _field(name: str) -> Callable[[MinimumReport], Any]:
    return lambda report: vars(report)[name]


_TABLE = (
    Metric(
        name="gamma_hat",
        title="gamma_hat",
        symbol=r"\hat\gamma",
        equation="Eq. 6: mean over T of ln|xi^t|",
        unit="nat",
        compute=gamma_hat,
        shown=("callback", "table", "plot", "experiments", "figure"),
        further=(
            Number(
                name="gamma_hat_std",
                title="std of gamma_hat",
                equation="over the trials; nan where one is -inf",
                unit="nat",
                derive=_gamma_hat_std,
                shown=("callback",),
            ),
            Number(
                name="gamma",
                title="gamma",
                symbol=r"\gamma",
                equation="section 5.3: (W/N') gamma_hat + W ln(1/W)",
                unit="nat",
                derive=_gamma,
            ),
            Number(
                name="log_singular_value_sum",
                title="sum ln(sing. values)",
                equation="gamma_hat / 2: what the authors' code prints",
                unit="nat",
                derive=_log_singular_value_sum,
            ),
        ),
    ),
    Metric(
        name="spectral_radius",
        title="spectral radius",
        equation="appendix D: mean over T of lambda_max(xi^t), not divided by N'",
        unit="nat^2",
        compute=spectral_radius,
        shown=("callback", "table", "plot", "experiments", "figure"),
        further=(
            Number(
                name="fisher_spectral_radius",
                title="spectral radius / N'",
                equation="mean over T of lambda_max(xi^t / N')",
                unit="nat^2",
                derive=_fisher_spectral_radius,
            ),
        ),
    ),
    Metric(
        name="frobenius_norm",
        title="Frobenius norm",
        equation="appendix D: mean of ||g g^T||_F^2 = ||g||^4, exact",
        unit="nat^4",
        compute=frobenius_norm,
        shown=("callback", "table", "plot", "experiments", "figure"),
    ),
    Metric(
        name="frobenius_norm_cross",
        title="Frobenius norm with cross terms",
        equation="mean over T of ||xi^t / N'||_F^2",
        unit="nat^4",
        compute=frobenius_norm_cross,
    ),
    Metric(
        name="trace",
        title="trace",
        equation="section 6: mean over T of tr(xi^t) / N'",
        unit="nat^2",
        compute=fisher_trace,
        shown=("callback", "table", "experiments"),
    ),
    Metric(
        name="rank",
        title="rank",
        equation="mean over T of the numerical rank of xi^t; below N' where it is singular",
        compute=rank,
        shown=("table",),
        further=(
            Number(
                name="rank_tolerance",
                title="tolerance of the rank",
                equation="largest over T of the eigenvalue (unit rows) that counts as zero",
                compute=rank_tolerance,
                reduce=np.max,
            ),
        ),
    ),
    Metric(
        name="am_gm_gap",
        title="AM-GM gap",
        equation="section 6: mean over T of tr(I)/N' - prod_i lambda_i(I)^(1/N'), I = xi^t / N'",
        unit="nat^2",
        compute=am_gm_gap,
        further=(
            Number(
                name="am_gm_bound",
                title="bound of the AM-GM gap",
                equation="section 6: mean over T of sqrt(N' - 1) sigma",
                unit="nat^2",
                compute=am_gm_bound,
            ),
        ),
    ),
    Metric(
        name="frobenius_norm_sampled",
        title="Frobenius norm, sampled",
        equation=f"appendix D: from {NUM_ENTRIES:,} entries of g g^T in each trial",
        unit="nat^4",
        needs="rows",
        compute=frobenius_norm_sampled,
    ),
    Metric(
        name="robustness",
        title="robustness",
        equation="section 7.1: mean over S of ||J_x f(x)||_2^2, f the softmax output",
        unit="1/input^2",
        needs="inputs",
        derive=_field("robustness"),
        shown=("table", "plot", "experiments", "figure"),
        further=(
            Number(
                name="robustness_std",
                title="std of the robustness",
                equation="of ||J_x f(x)||_2^2 over the examples",
                unit="1/input^2",
                derive=_field("robustness_std"),
            ),
            Number(
                name="num_robustness_examples",
                title="examples of the robustness",
                equation="that it is the mean over",
                derive=_field("num_robustness_examples"),
            ),
        ),
    ),
    Metric(
        name="hessian_spectral_radius",
        title="spectral radius of the Hessian",
        symbol=r"\rho(\nabla_w^2 \mathcal{L})",
        equation="section 7.1: mean over T of max |lambda(H^t)|, H^t of the mean loss over S^t",
        unit="nat",
        needs="hessian",
        compute=hessian_spectral_radius,
        shown=("table", "experiments"),
    ),
    Metric(
        name="hessian_trace",
        title="trace of the Hessian",
        symbol=r"\mathrm{tr}\,\nabla_w^2 \mathcal{L}",
        equation="mean over T of tr(H^t), estimated from 30 products a trial",
        unit="nat",
        needs="hessian",
        compute=hessian_trace,
        shown=("table", "experiments"),
    ),
    Metric(
        name="hessian_frobenius_norm",
        title="squared Frobenius norm of the Hessian",
        symbol=r"\|\nabla_w^2 \mathcal{L}\|_F^2",
        equation="section 7.1: mean over T of ||H^t||_F^2, estimated from the same products",
        unit="nat^2",
        needs="hessian",
        compute=hessian_frobenius_norm,
        shown=("table", "experiments"),
    ),
)
for _metric in _TABLE:
    register_metric(_metric)
