"""The picture of a comparison: test error and each metric, with the spread over the trials."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from infomcr_tf.characterization import MinimumReport
from infomcr_tf.comparison.minimum import Minimum
from infomcr_tf.storage import replacing

_PANELS = (
    ("gamma_hat", r"$\hat\gamma$"),
    ("spectral_radius", "spectral radius"),
    ("frobenius_norm", "Frobenius norm"),
    ("robustness", "robustness"),
)


def plot_comparison(
    minima: Sequence[Minimum], reports: Sequence[MinimumReport], path: str | Path
) -> None:
    """Draws one panel for the test error and one for each of the paper's four metrics.

    A box spans the quartiles of the trials, its whiskers all of them; a dot is their mean. Test
    error and robustness, which is measured over all examples, have one value: a bar. Minima keep
    their order and colour in all panels.

    Args:
        minima: what was measured.
        reports: the measurements, in the same order.
        path: the PNG file, replaced as a whole.
    """
    panels = [(name, title) for name, title in _PANELS if getattr(reports[0], name) is not None]
    names = short_names([minimum.name for minimum in minima])
    width = 2.6 + 0.35 * len(minima)
    figure = Figure(figsize=(width * (len(panels) + 1), 4.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels) + 1))
    positions = np.arange(len(minima))
    colors = [f"C{i % 10}" for i in positions]
    _draw_bars(axes[0], [100 * minimum.result["test"]["error"] for minimum in minima], colors)
    axes[0].set_title("test error (%)")
    for axis, (name, title) in zip(axes[1:], panels, strict=True):
        if name == "robustness":
            _draw_bars(axis, [report.robustness for report in reports], colors)
        else:
            _draw_trials(axis, [report.trials[name] for report in reports], colors)
        axis.set_title(title)
    for axis in axes:
        axis.set_xticks(positions, names, rotation=30, ha="right")
        axis.set_xlim(-0.6, len(minima) - 0.4)
        axis.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _draw_bars(axis: Axes, values: Sequence[float], colors: Sequence[str]) -> None:
    bars = axis.bar(np.arange(len(values)), values, color=colors, width=0.6)
    axis.bar_label(bars, fmt="%.3g", padding=2)
    axis.margins(y=0.12)


def _draw_trials(axis: Axes, values: Sequence[np.ndarray], colors: Sequence[str]) -> None:
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


def short_names(names: Sequence[str]) -> list[str]:
    """The last part of each path, or the last two where that is not unique."""
    for parts in (1, 2):
        short = ["/".join(Path(name).parts[-parts:]) for name in names]
        if len(set(short)) == len(short):
            break
    return short
