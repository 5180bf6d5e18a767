"""The picture of a report: each metric over the samples, the eigenvalues of xi, and the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from infomcr_tf.characterization.metric_table import METRICS, SPECTRUM
from infomcr_tf.characterization.per_layer import LAYER_NUMBERS, PerLayer
from infomcr_tf.pictures import (
    COLORS,
    Picture,
    add_caption,
    draw_trials,
    house_style,
    name_rows,
    scale_axis,
)

# Rows of the panels of layers: more would not be readable.
MOST_LAYERS = 40

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
    layers = report.per_layer.largest(MOST_LAYERS)
    columns = min(3, panels)
    picture, axes, below = _panels(panels, columns, height_of_layers(len(layers)))
    for axis, metric in zip(axes, metrics, strict=False):
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
        _draw_spectrum(axes[len(metrics)], report)
        caption += " Eigenvalues: median over the samples, band from the smallest to the largest."
    if layers:
        draw_layers(below, {"": report.per_layer}, layers)
        caption += " " + layers_caption(len(layers), len(report.per_layer))
    add_caption(picture, caption)
    return picture


def _panels(panels: int, columns: int, below: float) -> tuple[Picture, list[Axes], list[Axes]]:
    """A picture of small panels, and two wide ones of this height in inches under them."""
    above = 1.55 * -(-panels // columns)
    size = (2.7 * max(columns, 2 if below else 1), above + 0.35 + below)
    picture = Picture(figsize=size, layout="constrained")
    # Parts of their own: long names of layers do not narrow the panels above.
    parts = picture.subfigures(
        2 if below else 1, 1, squeeze=False, height_ratios=[above, below] if below else None
    )[:, 0]
    small = list(parts[0].subplots(-(-panels // columns), columns, squeeze=False).flat)
    for axis in small[panels:]:
        axis.set_visible(False)
    return picture, small, list(parts[1].subplots(1, 2)) if below else []


def height_of_layers(count: int, minima: int = 1) -> float:
    """Inches of the panels that `draw_layers` fills."""
    return 0.7 + count * max(0.19, 0.1 * minima) if count else 0.0


def layers_caption(drawn: int, count: int) -> str:
    """What a reader must know of the panels of `draw_layers`."""
    text = (
        r"Layers: $\xi_l$ is the part of $\xi$ from the layer's own weights; singular where these "
        "are fewer than N'."
    )
    if drawn < count:
        text += f" The {drawn} of {count} layers with the largest shares."
    return text


def draw_layers(axes: Sequence[Axes], minima: Mapping[str, PerLayer], layers: list[str]) -> None:
    """Each layer's share of the trace and its own ln|xi_l|, a row a layer, a colour a minimum.

    Args:
        axes: two.
        minima: name -> its layers; a layer that one does not have is left out there.
        layers: the rows, from top to bottom.
    """
    step = 0.7 / len(minima)
    for axis, name in zip(axes, LAYER_NUMBERS, strict=True):
        drawn: list[float] = []
        for k, per_layer in enumerate(minima.values()):
            for i, path in enumerate(layers):
                if path not in per_layer:
                    continue
                values = per_layer[path].trials[name] * (100 if name == "trace_share" else 1)
                drawn += values[np.isfinite(values)].tolist()
                place = i + (k - (len(minima) - 1) / 2) * step
                draw_trials(axis, place, values, COLORS[k % len(COLORS)], width=step)
        scale_axis(axis, "x", drawn)
        name_rows(axis, layers if axis is axes[0] else [""] * len(layers))
    axes[0].set_title(r"share of the trace of $\xi$")
    axes[0].set_xlabel("%")
    axes[1].set_title(r"$\ln|\xi_l|$ of each layer")
    axes[1].set_xlabel("nat")


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
