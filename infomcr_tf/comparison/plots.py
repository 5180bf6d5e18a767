"""The pictures of a comparison: its metrics over the trials, and the runs' training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from infomcr_tf.characterization import MinimumReport
from infomcr_tf.characterization.metric_table import shown
from infomcr_tf.comparison.minimum import Minimum
from infomcr_tf.storage import replacing

_TRAINING_PANELS = (
    ("loss", "training loss (with weight decay)"),
    ("accuracy", "training accuracy"),
    ("mean_sub_batch_grad_norm", r"mean $\|g_i\|^2$ over the sub-batches"),
    ("beta", r"$\beta$"),
    ("learning_rate", "learning rate"),
)


def plot_comparison(
    minima: Sequence[Minimum], reports: Sequence[MinimumReport], path: str | Path
) -> None:
    """Draws one panel for the test error and one for each metric whose row says "plot".

    A box spans the quartiles of the trials, its whiskers all of them; a dot is their mean. Test
    error and robustness, which is measured over all examples, have one value: a bar. Minima keep
    their order and colour in all panels.

    Args:
        minima: what was measured.
        reports: the measurements, in the same order.
        path: the PNG file, replaced as a whole.
    """
    panels = [metric for metric in shown("plot") if metric.value(reports[0]) is not None]
    names = short_names([minimum.name for minimum in minima])
    width = 2.6 + 0.35 * len(minima)
    figure = Figure(figsize=(width * (len(panels) + 1), 4.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels) + 1))
    positions = np.arange(len(minima))
    colors = [f"C{i % 10}" for i in positions]
    _draw_bars(axes[0], [100 * minimum.result["test"]["error"] for minimum in minima], colors)
    axes[0].set_title("test error (%)")
    for axis, metric in zip(axes[1:], panels, strict=True):
        if metric.name in reports[0].trials:
            _draw_trials(axis, [report.trials[metric.name] for report in reports], colors)
        else:
            _draw_bars(axis, [metric.value(report) for report in reports], colors)
        axis.set_title(metric.label)
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


def plot_training(minima: Sequence[Minimum], path: str | Path) -> None:
    """Draws the history of each run, one panel for each quantity; nothing where there is no run.

    `||g_i||^2` is known only while the penalty is on. Colours are those of `plot_comparison`.

    Args:
        minima: those without a history are left out.
        path: the PNG file, replaced as a whole.
    """
    runs = [(i, m) for i, m in enumerate(minima) if m.history]
    panels = [
        (name, title)
        for name, title in _TRAINING_PANELS
        if any(name in m.history[0] for _, m in runs)
    ]
    if not panels:
        return
    names = short_names([minimum.name for minimum in minima])
    figure = Figure(figsize=(3.4 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, title) in zip(axes, panels, strict=True):
        for i, minimum in runs:
            rows = [row for row in minimum.history if name in row and _is_shown(name, row)]
            axis.plot(
                [row["epoch"] for row in rows], [row[name] for row in rows], f"C{i % 10}.-",
                label=names[i],
            )  # fmt: skip
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _is_shown(name: str, row: dict[str, float]) -> bool:
    return name != "mean_sub_batch_grad_norm" or row.get("beta", 0) > 0


def short_names(names: Sequence[str]) -> list[str]:
    """The last part of each path, or the last two where that is not unique."""
    for parts in (1, 2):
        short = ["/".join(Path(name).parts[-parts:]) for name in names]
        if len(set(short)) == len(short):
            break
    return short
