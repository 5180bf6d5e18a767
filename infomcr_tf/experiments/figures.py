"""The pictures of an experiment: each run a dot; with and without the penalty, each seed a pair."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from infomcr_tf.characterization.metric_table import find_number, shown
from infomcr_tf.characterization.report_plot import unit_label
from infomcr_tf.experiments.results import Results, ranked
from infomcr_tf.pictures import (
    COLORS,
    MARKERS,
    PALE,
    add_caption,
    grid,
    house_style,
    name_rows,
    save_picture,
    scale_axis,
)
from infomcr_tf.storage import replacing

# What settings are compared by: beta is selected by the validation error.
_ERRORS = (("validation_error", "validation error (%)"), ("test_error", "test error (%)"))
_PENALTY = "penalty"  # the variable of the experiments that compare with and without it

_Rows = Sequence[Mapping[str, Any]]


def draw_figures(results: Results) -> dict[str, Figure]:
    """File name (without ending) -> figure; none where no run was measured.

    `figure`: a panel for each quantity and group of settings, a dot for each run. Where the
    settings are without and with the penalty: each seed's pair, and the mean difference with its
    interval. `scatter`: each metric against the test error, a dot for each run.
    """
    if not results.rows:
        return {}
    paired = results.experiment.variable == _PENALTY
    figures = {"figure": _draw_pairs(results) if paired else _draw_settings(results)}
    if results.ranks:
        figures["scatter"] = _draw_scatter(results)
    return figures


def save_figures(figures: dict[str, Figure], place: Path) -> None:
    """Writes each figure as PNG and SVG."""
    for name, figure in figures.items():
        save_picture(figure, place / f"{name}.png")
        with replacing(place / f"{name}.svg") as temporary, house_style():
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element, to stand within HTML."""
    text = io.StringIO()
    with house_style():
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def paired_difference(
    without: Sequence[float], penalised: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean of `penalised - without` over pairs, and the ends of its interval.

    The interval is Student's for the mean of n differences; nan for a single pair.

    Args:
        without: one value a pair.
        penalised: the same.
        confidence: of the interval.
    """
    differences = np.asarray(penalised, np.float64) - np.asarray(without, np.float64)
    mean, n = float(np.mean(differences)), len(differences)
    if n < 2 or not np.all(np.isfinite(differences)):
        return mean, math.nan, math.nan
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * np.std(differences, ddof=1) / math.sqrt(n)
    return mean, mean - float(half), mean + float(half)


def _groups(results: Results) -> dict[str, list[str]]:
    """Group -> labels of its settings, of what was measured."""
    measured = {row["group"] for row in results.rows}
    groups: dict[str, list[str]] = {}
    for setting in results.experiment.settings:
        if setting.group in measured:
            groups.setdefault(setting.group, []).append(setting.label)
    return groups


def _panels(results: Results) -> list[tuple[str, str]]:
    measured = [set(row) for row in results.rows]
    found = [next(error for error in _ERRORS if error[0] in measured[0])]
    for metric in shown("figure"):
        unit = unit_label(metric.unit)
        unit = f" ({unit})" if unit else ""
        found.append((metric.name, metric.label + unit))
        if metric.name == "gamma_hat":
            found.append(("gamma_hat_equalized", f"{metric.label} at equal loss{unit}"))
    return [panel for panel in found if all(panel[0] in row for row in measured)]


def _samples(results: Results) -> str:
    view = results.experiment.views.get("raw", {})
    if "num_samples" not in view or "num_trials" not in view:
        return ""
    return (
        f" Metrics: means over {view['num_trials']} samples of N' = {view['num_samples']} images."
    )


@house_style()
def _draw_settings(results: Results) -> Figure:
    groups, panels = _groups(results), _panels(results)
    longest = max(len(label) for labels in groups.values() for label in labels)
    most = max(map(len, groups.values()))
    crowded = longest * most > 24
    picture, axes = grid(
        len(groups), len(panels), width=max(2.4, 0.4 * most), height=2.7 if crowded else 2.3
    )
    for line, (group, labels) in zip(axes, groups.items(), strict=True):
        for axis, (name, title) in zip(line, panels, strict=True):
            values = [[row[name] for row in results.of_setting(group, each)] for each in labels]
            for i, own in enumerate(values):
                _draw_runs(axis, i, own)
            scale_axis(axis, "y", np.concatenate(values))
            axis.set_xlim(-0.5, len(labels) - 0.5)
            axis.set_xticks(
                range(len(labels)),
                labels,
                rotation=35 if crowded else 0,
                ha="right" if crowded else "center",
            )
            axis.grid(axis="x", visible=False)
            axis.set_title(title)
        line[0].set_ylabel(group)
        for axis in line:
            axis.set_xlabel(results.experiment.variable)
    counts = sorted({len(results.of_setting(g, label)) for g in groups for label in groups[g]})
    runs = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    several = ", with different seeds. A dash: their mean." if counts[-1] > 1 else "."
    add_caption(
        picture, f"A dot: one training run; n = {runs} a setting{several}{_samples(results)}"
    )
    return picture


def _draw_runs(axis: Axes, position: int, values: Sequence[float]) -> None:
    finite = [value for value in values if math.isfinite(value)]
    spread = np.linspace(-0.12, 0.12, len(finite)) if len(finite) > 1 else [0.0] * len(finite)
    axis.plot(position + np.asarray(spread), finite, "o", color=COLORS[0], alpha=0.75, mew=0)
    if len(finite) > 1:
        axis.plot(position, np.mean(finite), "_", color=COLORS[1], markersize=16, mew=2)
    if len(finite) < len(values):
        axis.annotate(
            f"{len(values) - len(finite)} singular",
            (position, 0.02),
            fontsize=8,
            ha="center",
            xycoords=("data", "axes fraction"),
        )


@house_style()
def _draw_pairs(results: Results) -> Figure:
    groups, panels = _groups(results), _panels(results)
    seeds = max(len(results.of_setting(g, label)) for g in groups for label in groups[g])
    picture, axes = grid(
        2 * len(groups),
        len(panels),
        width=2.5,
        height=0.55 + 0.13 * seeds,
        gridspec_kw={"height_ratios": [0.6 + 0.4 * seeds, 1] * len(groups)},
    )
    for i, (group, labels) in enumerate(groups.items()):
        for j, (name, title) in enumerate(panels):
            sides = [
                {row["seed"]: row[name] for row in results.of_setting(group, label)}
                for label in labels
            ]
            common = sorted(set(sides[0]) & set(sides[-1]))
            pair = [[side[seed] for seed in common] for side in (sides[0], sides[-1])]
            upper, lower = axes[2 * i, j], axes[2 * i + 1, j]
            _draw_pair(upper, common, *pair)
            _draw_difference(lower, *pair)
            upper.set_title(title if len(groups) == 1 else f"{title}\n{group}", fontsize=9.5)
            if j:
                upper.set_yticklabels([])
                lower.set_yticklabels([])
    handles = [
        axes[0, 0].plot([], [], "o", color="white", mec=COLORS[0], mew=1.5, label="without")[0],
        axes[0, 0].plot([], [], "o", color=COLORS[1], label="with the penalty")[0],
    ]
    picture.legend(handles=handles, loc="outside upper left", ncols=2)
    add_caption(
        picture,
        f"Each line: one seed, n = {seeds}. Difference: with minus without, mean over the "
        f"seeds with its 95 % interval (Student).{_samples(results)}",
    )
    return picture


def _draw_pair(
    axis: Axes, seeds: Sequence[int], without: Sequence[float], penalised: Sequence[float]
) -> None:
    for i, (before, after) in enumerate(zip(without, penalised, strict=True)):
        axis.plot([before, after], [i, i], "-", color=PALE, zorder=1)
    axis.plot(without, range(len(seeds)), "o", color="white", mec=COLORS[0], mew=1.5)
    axis.plot(penalised, range(len(seeds)), "o", color=COLORS[1])
    name_rows(axis, [f"seed {seed}" for seed in seeds])
    scale_axis(axis, "x", [*without, *penalised])


def _draw_difference(axis: Axes, without: Sequence[float], penalised: Sequence[float]) -> None:
    mean, low, high = paired_difference(without, penalised)
    axis.axvline(0, color="#444444", linewidth=0.8)
    if math.isfinite(low):
        axis.plot([low, high], [0, 0], "-", color=COLORS[2], linewidth=2.5)
    if math.isfinite(mean):
        axis.plot(mean, 0, "D", color=COLORS[2])
    name_rows(axis, ["difference"])
    axis.margins(x=0.15)
    scale_axis(axis, "x", [])


@house_style()
def _draw_scatter(results: Results) -> Figure:
    metrics = [(n, t) for n, t in ranked() if (n, "test_error") in results.ranks]
    columns = 4
    picture, axes = grid(-(-len(metrics) // columns), columns, width=2.6, height=2.4)
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    settings = results.experiment.settings
    groups = list(dict.fromkeys(setting.group for setting in settings))
    # Several groups: a colour each. One: a colour for each setting.
    kinds = groups if len(groups) > 1 else [setting.label for setting in settings]
    for axis, (name, title) in zip(axes.flat, metrics, strict=False):
        for i, kind in enumerate(kinds):
            rows = [row for row in results.rows if kind in (row["group"], row["label"])]
            axis.plot(
                [row[name] if math.isfinite(row[name]) else math.nan for row in rows],
                [row["test_error"] for row in rows],
                MARKERS[i % len(MARKERS)],
                color=COLORS[i % len(COLORS)],
                markersize=5,
                alpha=0.8,
                mew=0,
                label=kind,
            )
        number = find_number(name.removesuffix("_equalized"))
        axis.set_xlabel("" if number is None else unit_label(number.unit))
        rank = results.ranks[name, "test_error"]
        axis.set_title(
            f"{title}\nτ = {rank.tau:.2f} [{rank.low:.2f}, {rank.high:.2f}]", fontsize=9.5
        )
        scale_axis(axis, "x", [row[name] for row in results.rows], decades=1.5)
    for line in axes:
        line[0].set_ylabel("test error (%)")
    picture.legend(
        *axes.flat[0].get_legend_handles_labels(),
        loc="outside upper left",
        ncols=min(5, len(kinds)),
        title=results.experiment.variable if len(groups) < 2 else None,
    )
    num_runs = len({row["run"] for row in results.rows})
    add_caption(
        picture,
        f"A dot: one training run, n = {num_runs}. τ: "
        f"Kendall's rank correlation, with its 95 % bootstrap interval over runs."
        f"{_samples(results)}",
    )
    return picture
