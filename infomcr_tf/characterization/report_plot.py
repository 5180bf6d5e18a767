"""The picture of a report: each metric over the samples, and the eigenvalues of xi."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from infomcr_tf.characterization.metric_table import METRICS, SPECTRUM
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
    from infomcr_tf.characterization.report import MinimumReport


def unit_label(unit: str) -> str:
    """A unit as the label of an axis: powers raised, nothing for a count."""
    return "" if unit == "1" else unit.replace("^2", "²").replace("^4", "⁴")


@house_style()
def plot_report(report: MinimumReport) -> Picture:
    """Draws a panel for each metric of samples, and the spectrum; see `MinimumReport.plot`.

    Raises:
        ValueError: where no metric was measured in trials.
    """
    metrics = [metric for metric in METRICS.values() if metric.name in report.trials]
    if not metrics:
        raise ValueError(
            "A plot needs a metric that is measured in samples, such as gamma_hat. Received: a "
            "report without any."
        )
    spectrum = [number for number in SPECTRUM if number.name in report.trials]
    panels = len(metrics) + bool(spectrum)
    columns = min(3, panels)
    picture, axes = grid(-(-panels // columns), columns, width=2.7, height=1.5)
    for axis in axes.flat[panels:]:
        axis.set_visible(False)
    for axis, metric in zip(axes.flat, metrics, strict=False):
        values = report.trials[metric.name]
        draw_trials(axis, 0, values, COLORS[0])
        scale_axis(axis, "x", values)
        name_rows(axis, [""])
        axis.set_title(metric.label)
        axis.set_xlabel(unit_label(metric.unit))
    caption = (
        f"Pale dots: the T = {report.num_trials} samples of N' = {report.num_samples} examples. "
        "Line: the middle half of them. Large dot: their mean."
    )
    if spectrum:
        _draw_spectrum(axes.flat[len(metrics)], report)
        caption += " Eigenvalues: median over the samples, band from the smallest to the largest."
    add_caption(picture, caption)
    return picture


def _draw_spectrum(axis: Axes, report: MinimumReport) -> None:
    """The eigenvalues of xi by rank: their quantiles, and the largest."""
    percent = [int(number.name.split("_")[1]) for number in SPECTRUM] + [100]
    names = [*(number.name for number in SPECTRUM), "spectral_radius"]
    values = np.stack([report.trials[name] for name in names])
    middle = np.median(values, axis=1)
    axis.fill_between(
        percent, values.min(axis=1), values.max(axis=1), color=COLORS[0], alpha=0.2, linewidth=0
    )
    axis.plot(percent, middle, ".-", color=COLORS[0])
    scale_axis(axis, "y", values.ravel())
    axis.set_xticks([0, 50, 100], ["smallest", "median", "largest"])
    for label, side in zip(axis.get_xticklabels(), ("left", "center", "right"), strict=True):
        label.set(horizontalalignment=side)
    axis.set_title(r"eigenvalues of $\xi$")
    axis.set_ylabel("nat²")
