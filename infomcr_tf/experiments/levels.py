"""The same experiment at higher training losses: the networks that its runs kept on the way."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from infomcr_tf.experiments.experiment import Experiment, Run
from infomcr_tf.experiments.measure import measure
from infomcr_tf.experiments.results import Results, ranked
from infomcr_tf.storage import replacing, write_csv

_TARGET = "test_error"


def at_level(experiment: Experiment) -> Experiment:
    """The experiment as it is measured at kept networks."""
    return dataclasses.replace(
        experiment, views=experiment.level_views, generalization_measures=False
    )


def save_levels(results: Results, runs: Sequence[Run], place: Path) -> None:
    """Writes the tables of the kept networks and how the rank correlations depend on the level.

    Nothing where no network was kept.

    Args:
        results: of the runs themselves.
        runs: of the experiment, complete or not.
        place: gets levels.md, levels.csv (a row per network) and, where there are rank
            correlations, levels.png.
    """
    by_level = _collect(results.experiment, runs)
    if not by_level:
        return
    text, rows = [], []
    for level, own in by_level.items():
        text.append(f"## At a training loss of {level:g}\n\n{own.markdown().split(chr(10), 2)[2]}")
        rows += [{"level": level, **row} for row in own.rows]
    with replacing(place / "levels.md") as temporary:
        title = f"# {results.experiment.title}: networks kept on the way\n\n"
        temporary.write_text(title + "\n".join(text), encoding="utf-8")
    write_csv(place / "levels.csv", rows)
    target = results.experiment.settings[0].config.target_loss
    if target is not None:
        by_level[target] = results
    if any(own.ranks for own in by_level.values()):
        with replacing(place / "levels.png") as temporary:
            draw_levels(by_level).savefig(temporary, dpi=150, format="png")


def _collect(experiment: Experiment, runs: Sequence[Run]) -> dict[float, Results]:
    own = at_level(experiment)
    by_level: dict[float, list[Run]] = {}
    for run in runs:
        for level, kept in run.kept.items():
            by_level.setdefault(level, []).append(kept)
    return {
        level: Results.collect(own, [measure(run, own) for run in by_level[level]], {})
        for level in sorted(by_level, reverse=True)
    }


def draw_levels(by_level: Mapping[float, Results]) -> Figure:
    """Kendall's tau with the test error against the training loss, with its interval."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    names = [
        (name, title)
        for name, title in ranked()
        if all((name, _TARGET) in own.ranks for own in by_level.values() if own.ranks)
    ]
    for i, (name, title) in enumerate(names):
        found = {level: own.ranks[name, _TARGET] for level, own in by_level.items() if own.ranks}
        taus = [rank.tau for rank in found.values()]
        below = [rank.tau - rank.low for rank in found.values()]
        above = [rank.high - rank.tau for rank in found.values()]
        shift = math.exp(0.04 * (i - (len(names) - 1) / 2))  # so that bars do not hide each other
        axis.errorbar(
            [level * shift for level in found],
            taus,
            yerr=[below, above],
            fmt="o-",
            markersize=4,
            linewidth=1,
            elinewidth=0.6,
            color=f"C{i % 10}",
            label=title,
        )
    axis.axhline(0, color="gray", linewidth=0.8)
    axis.set_xscale("log")
    axis.invert_xaxis()
    axis.set_xlabel("training loss at which the networks are compared")
    axis.set_ylabel(r"Kendall's $\tau$ with the test error")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure
