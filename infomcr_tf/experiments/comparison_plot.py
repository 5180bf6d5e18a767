"""The picture of a comparison: test error and each metric, with the spread over the trials."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from infomcr_tf.characterization import MinimumReport
from infomcr_tf.experiments.minimum import Minimum
from infomcr_tf.storage import replacing

_PANELS = (
    ("gamma_hat", r"$\hat\gamma$ (ours)"),
    ("spectral_radius", "spectral radius"),
    ("frobenius_norm", "Frobenius norm"),
    ("robustness", "robustness"),
)


def plot_comparison(
    minima: Sequence[Minimum], reports: Sequence[MinimumReport], path: str | Path
) -> None:
    """Draws one panel for the test error and one for each of the paper's four metrics.

    A box spans the quartiles of the trials, its whiskers all of them; a dot is their mean. The
    robustness has one value. Minima keep their order and colour in all panels.

    Args:
        minima: what was measured.
        reports: the measurements, in the same order.
        path: the PNG file, replaced as a whole.
    """
    panels = [(name, title) for name, title in _PANELS if getattr(reports[0], name) is not None]
    names = _short_names([minimum.name for minimum in minima])
    width = 2.6 + 0.35 * len(minima)
    figure = Figure(figsize=(width * (len(panels) + 1), 4.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels) + 1))
    positions = np.arange(len(minima))
    colors = [f"C{i % 10}" for i in positions]
    errors = [100 * minimum.result["test"]["error"] for minimum in minima]
    bars = axes[0].bar(positions, errors, color=colors, width=0.6)
    axes[0].bar_label(bars, fmt="%.2f", padding=2)
    axes[0].margins(y=0.12)
    axes[0].set_title("test error (%)")
    for axis, (name, title) in zip(axes[1:], panels, strict=True):
        _draw_metric(axis, [_values(report, name) for report in reports], colors)
        axis.set_title(title)
    for axis in axes:
        axis.set_xticks(positions, names, rotation=30, ha="right")
        axis.set_xlim(-0.6, len(minima) - 0.4)
        axis.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _draw_metric(axis: object, values: Sequence[np.ndarray], colors: Sequence[str]) -> None:
    for i, (own, color) in enumerate(zip(values, colors, strict=True)):
        finite = own[np.isfinite(own)]
        if len(finite) < len(own):
            axis.annotate("singular", (i, 0.02), xycoords=("data", "axes fraction"), ha="center")
        if len(finite) > 1:
            axis.boxplot(
                [finite], positions=[i], widths=0.5, whis=(0, 100), showcaps=False,
                medianprops={"color": color}, boxprops={"color": color},
                whiskerprops={"color": color}, manage_ticks=False,
            )  # fmt: skip
        if len(finite):
            axis.plot(i, np.mean(finite), "o", color=color)


def _values(report: MinimumReport, name: str) -> np.ndarray:
    return report.trials[name] if name in report.trials else np.array([report.robustness])


def _short_names(names: Sequence[str]) -> list[str]:
    """The last part of each path, or the last two where that is not unique."""
    for parts in (1, 2):
        short = ["/".join(Path(name).parts[-parts:]) for name in names]
        if len(set(short)) == len(short):
            break
    return short
