"""Figures in the style of the paper's: mean line and band of one standard deviation over seeds."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from infomcr_tf.characterization.metric_table import shown
from infomcr_tf.experiments.results import Results, mean_and_std, ranked
from infomcr_tf.storage import replacing

_METRIC_COLOR, _ERROR_COLOR = "C0", "C3"
_MARKERS = "os^Dv*"  # one for each group of settings


def draw_figures(results: Results) -> dict[str, Figure]:
    """File name (without ending) -> figure; none where no run was measured.

    `figure`: for each group of settings a row with one panel per metric (left axis) beside the test
    error (right axis), against the variable. Without metrics one panel with the error.
    `scatter`: each metric against the test error, one dot per run, with Kendall's tau.
    """
    if not results.rows:
        return {}
    figures = {"figure": _draw_lines(results)}
    if results.ranks:
        figures["scatter"] = _draw_scatter(results)
    return figures


def save_figures(figures: dict[str, Figure], place: Path) -> None:
    """Writes each figure as PNG and SVG."""
    for name, figure in figures.items():
        for ending in ("png", "svg"):
            with replacing(place / f"{name}.{ending}") as temporary:
                figure.savefig(temporary, dpi=150, format=ending)


def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element, to stand within HTML."""
    text = io.StringIO()
    figure.savefig(text, format="svg")
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _draw_lines(results: Results) -> Figure:
    measured = {row["group"] for row in results.rows}
    settings = [each for each in results.experiment.settings if each.group in measured]
    groups = list(dict.fromkeys(setting.group for setting in settings))
    panels = [panel for panel in _panels() if all(panel[0] in row for row in results.rows)]
    # Beta is selected by the validation error.
    chosen = "validation_error" if "validation_error" in results.rows[0] else "test_error"
    figure = Figure(
        figsize=(3.6 * max(1, len(panels)), 3.0 * len(groups) + 0.4), layout="constrained"
    )
    axes = figure.subplots(len(groups), max(1, len(panels)), squeeze=False)
    for row, group in zip(axes, groups, strict=True):
        labels = [setting.label for setting in settings if setting.group == group]
        for axis, (name, title) in zip(row, panels or [(None, chosen)], strict=True):
            if name is None:
                _band(axis, results, group, labels, chosen, _ERROR_COLOR)
                axis.set_title(f"{group} {chosen.replace('_', ' ')} (%)".strip())
            else:
                _band(axis, results, group, labels, name, _METRIC_COLOR)
                axis.set_title(f"{group}\n{title}" if group else title, color=_METRIC_COLOR)
                right = axis.twinx()
                _band(right, results, group, labels, chosen, _ERROR_COLOR)
                right.set_ylabel("test error (%)", color=_ERROR_COLOR)
                right.spines["top"].set_visible(False)
            _name_positions(axis, labels)
            axis.set_xlabel(results.experiment.variable)
            axis.spines["top"].set_visible(False)
    return figure


def _panels() -> list[tuple[str, str]]:
    found = []
    for metric in shown("figure"):
        found.append((metric.name, metric.label))
        if metric.name == "gamma_hat":
            found.append(("gamma_hat_equalized", f"{metric.label} at equal loss"))
    return found


def _band(
    axis: Axes, results: Results, group: str, labels: Sequence[str], name: str, color: str
) -> None:
    means, stds = [], []
    for label in labels:
        values = [row[name] for row in results.of_setting(group, label)]
        mean, std = mean_and_std(values) if values else (math.nan, math.nan)
        means.append(mean if math.isfinite(mean) else math.nan)
        stds.append(std if math.isfinite(std) else 0.0)
    positions = np.arange(len(labels))
    mean, std = np.array(means), np.array(stds)
    style = "o-" if color == _METRIC_COLOR else "o--"
    axis.plot(positions, mean, style, color=color, markersize=3)
    axis.fill_between(positions, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)


def _name_positions(axis: Axes, labels: Sequence[str]) -> None:
    crowded = len(labels) * max(len(label) for label in labels) > 40
    axis.set_xticks(
        range(len(labels)), labels,
        rotation=30 if crowded else 0, ha="right" if crowded else "center",
    )  # fmt: skip


def _draw_scatter(results: Results) -> Figure:
    metrics = [(n, t) for n, t in ranked() if (n, "test_error") in results.ranks]
    columns = 4
    lines = -(-len(metrics) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.9 * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    settings = results.experiment.settings
    groups = list(dict.fromkeys(setting.group for setting in settings))
    for axis, (name, title) in zip(axes.flat, metrics, strict=False):
        for i, setting in enumerate(settings):
            rows = results.of_setting(setting.group, setting.label)
            marker = _MARKERS[groups.index(setting.group) % len(_MARKERS)]
            axis.plot(
                [row[name] if math.isfinite(row[name]) else math.nan for row in rows],
                [row["test_error"] for row in rows],
                marker, color=f"C{i % 10}", markersize=4, label=setting.title,
            )  # fmt: skip
        axis.set_title(f"{title}: tau {results.ranks[name, 'test_error'].tau:.2f}", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.locator_params(axis="x", nbins=4)
    for line in axes:
        line[0].set_ylabel("test error (%)")
    figure.legend(
        *axes.flat[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8,
        ncols=min(6, len(settings)), title=results.experiment.variable,
    )  # fmt: skip
    return figure
