"""The picture of a report: each metric with its spread over the trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infomcr_tf.characterization.metric_table import METRICS
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
    """Draws one panel a metric that was measured in trials; see `MinimumReport.plot`.

    Raises:
        ValueError: where no metric was measured in trials.
    """
    metrics = [metric for metric in METRICS.values() if metric.name in report.trials]
    if not metrics:
        raise ValueError(
            "A plot needs a metric that is measured in samples, such as gamma_hat. Received: a "
            "report without any."
        )
    columns = min(3, len(metrics))
    lines = -(-len(metrics) // columns)
    picture, axes = grid(lines, columns, width=2.7, height=1.35)
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    for axis, metric in zip(axes.flat, metrics, strict=False):
        values = report.trials[metric.name]
        draw_trials(axis, 0, values, COLORS[0])
        scale_axis(axis, "x", values)
        name_rows(axis, [""])
        axis.set_title(metric.label)
        axis.set_xlabel(unit_label(metric.unit))
    add_caption(
        picture, f"Pale dots: the T = {report.num_trials} samples of N' = {report.num_samples} "
        "examples. Line: the middle half of them. Large dot: their mean.",
    )  # fmt: skip
    return picture
