"""The pictures of a comparison: its metrics over the samples, and the runs' training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from infomcr_tf.characterization.metric_table import METRICS, Metric, shown
from infomcr_tf.characterization.per_layer import PerLayer
from infomcr_tf.characterization.report_plot import (
    MOST_LAYERS,
    draw_layers,
    height_of_layers,
    layers_caption,
    unit_label,
)
from infomcr_tf.pictures import (
    COLORS,
    Picture,
    add_caption,
    draw_trials,
    grid,
    house_style,
    name_rows,
    scale_axis,
)

if TYPE_CHECKING:
    from infomcr_tf.comparison.compared import Compared

_TRAINING_PANELS = (
    ("loss", "training loss (with L2)", "nat"),
    ("accuracy", "training error (%)", ""),
    ("mean_sub_batch_grad_norm", r"mean $\|g_i\|^2$, sub-batches", "nat²"),
    ("beta", r"$\beta$", ""),
    ("learning_rate", "learning rate", ""),
)
_LINES = ("-", "--", "-.", ":")


@house_style()
def plot_comparison(minima: Sequence[Compared]) -> Picture:
    """Draws a panel for the test error, if known, and one for each metric whose row says "plot".

    Args:
        minima: one row of every panel each, from top to bottom.
    """
    measured = [
        metric
        for metric in METRICS.values()
        if any(metric.value(m.report) is not None for m in minima)
    ]
    metrics = [metric for metric in measured if metric in shown("plot")] or measured
    errors = [m.result.get("test", {}).get("error") for m in minima]
    with_errors = any(error is not None for error in errors)
    names = short_names([m.name for m in minima])
    columns = len(metrics) + with_errors
    picture, cells = grid(
        1, columns, width=max(2.4, 5 / columns), height=0.75 + 0.3 * len(minima), sharey=True
    )
    axes = list(cells[0])
    if with_errors:
        axis = axes.pop(0)
        axis.set_title("test error")
        axis.set_xlabel("%")
        _draw_values(axis, [None if error is None else 100 * error for error in errors])
        name_rows(axis, names)
    for axis, metric in zip(axes, metrics, strict=True):
        _draw_metric(axis, metric, minima)
        name_rows(axis, names)
    add_caption(
        picture,
        f"{_dots_caption(minima)} their mean; for test error and robustness, the one value that "
        "there is.",
    )
    return picture


def _draw_metric(axis: Axes, metric: Metric, minima: Sequence[Compared]) -> None:
    axis.set_title(metric.label)
    axis.set_xlabel(unit_label(metric.unit))
    trials = [m.report.trials.get(metric.name) for m in minima]
    if all(values is None for values in trials):
        _draw_values(axis, [metric.value(m.report) for m in minima])
        return
    for i, values in enumerate(trials):
        if values is not None:
            draw_trials(axis, i, values, COLORS[i % len(COLORS)])
    scale_axis(axis, "x", np.concatenate([v for v in trials if v is not None]))


def _draw_values(axis: Axes, values: Sequence[float | None]) -> None:
    for i, value in enumerate(values):
        if value is not None:
            axis.plot(value, i, "o", color=COLORS[i % len(COLORS)], markersize=8, mec="white")
    known = [value for value in values if value is not None]
    scale_axis(axis, "x", known)
    if axis.get_xscale() == "linear" and min(known, default=0) >= 0:
        axis.set_xlim(0, 1.15 * max(known, default=1) or 1)  # from zero: no difference is magnified


@house_style()
def plot_layers(minima: Sequence[Compared]) -> Picture | None:
    """Draws the layers of each minimum, a row a layer; None where none were told apart.

    Args:
        minima: a colour each, those of `plot_comparison`.
    """
    names = short_names([m.name for m in minima])
    known = dict(zip(names, _with_equal_paths([m.report.per_layer for m in minima]), strict=True))
    paths = dict.fromkeys(path for layers in known.values() for path in layers.largest(MOST_LAYERS))
    layers = list(paths)[:MOST_LAYERS]
    if not layers:
        return None
    picture, axes = grid(1, 2, width=4.05, height=height_of_layers(len(layers), len(minima)))
    draw_layers(axes[0], known, layers)
    dots = [
        Line2D([], [], marker="o", linestyle="", color=COLORS[i % len(COLORS)])
        for i in range(len(names))
    ]
    picture.legend(dots, names, loc="outside upper left", ncols=min(4, len(names)))
    most = max(len(layers) for layers in known.values())
    add_caption(picture, f"{_dots_caption(minima)} their mean. {layers_caption(len(layers), most)}")
    return picture


@house_style()
def plot_training(minima: Sequence[Compared]) -> Picture | None:
    """Draws the history of each run, one panel for each quantity; None where there is no run.

    `||g_i||^2` is known only while the penalty is on. Colours are those of `plot_comparison`.

    Args:
        minima: those without a history are left out.
    """
    runs = [(i, m.history) for i, m in enumerate(minima) if m.history]
    panels = [panel for panel in _TRAINING_PANELS if any(panel[0] in h[0] for _, h in runs)]
    if not panels:
        return None
    names = short_names([m.name for m in minima])
    picture, axes = grid(1, len(panels), width=2.6, height=2.5)
    for axis, (name, title, unit) in zip(axes[0], panels, strict=True):
        drawn = []
        for i, history in runs:
            rows = [row for row in history if name in row and _is_shown(name, row)]
            values = [100 * (1 - row[name]) if name == "accuracy" else row[name] for row in rows]
            drawn += values
            axis.plot(
                [row["epoch"] for row in rows],
                values,
                _LINES[i // len(COLORS) % len(_LINES)],
                color=COLORS[i % len(COLORS)],
                label=names[i],
                marker="." if len(rows) < 2 else None,
            )
        scale_axis(axis, "y", drawn)
        axis.set_title(title)
        axis.set_ylabel(unit)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    picture.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=min(6, len(runs))
    )
    return picture


def _dots_caption(minima: Sequence[Compared]) -> str:
    sizes = sorted({(m.report.num_trials, m.report.num_samples) for m in minima})
    samples = " or ".join(f"T = {t} samples of N' = {n}" for t, n in sizes)
    return f"Pale dots: the {samples} examples. Line: the middle half of them. Large dot:"


def _with_equal_paths(minima: Sequence[PerLayer]) -> Sequence[PerLayer]:
    """Layers of one architecture under the first's paths: Keras numbers the layers of each copy."""
    sizes = [[layer.num_parameters for layer in layers.values()] for layers in minima]
    if any(each != sizes[0] for each in sizes):
        return minima
    return [PerLayer(dict(zip(minima[0], layers.values(), strict=True))) for layers in minima]


def _is_shown(name: str, row: dict[str, float]) -> bool:
    return name != "mean_sub_batch_grad_norm" or row.get("beta", 0) > 0


def short_names(names: Sequence[str]) -> list[str]:
    """The last part of each path, or the last two where that is not unique."""
    for parts in (1, 2):
        short = ["/".join(Path(name).parts[-parts:]) for name in names]
        if len(set(short)) == len(short):
            break
    return short
