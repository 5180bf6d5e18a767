"""Results on disk, and everything that is drawn from them."""

import dataclasses
from pathlib import Path
from typing import Any

from infomcr_tf.experiments.experiment import Experiment, Setting
from infomcr_tf.experiments.figures import draw_figures, save_figures
from infomcr_tf.experiments.html_report import write_report
from infomcr_tf.experiments.results import Results
from infomcr_tf.storage import read_json, replacing, write_csv, write_json
from infomcr_tf.training.kinds import config_from_dict, kind_of

_KIND = "infomcr_tf experiment"


def publish(results: Results, place: Path) -> None:
    """Writes everything that is made of results: tables, figures and the report."""
    place.mkdir(parents=True, exist_ok=True)
    save_results(results, place)
    draw(results, place)


def draw(results: Results, place: Path) -> None:
    """Writes the figures and the report."""
    figures = draw_figures(results)
    save_figures(figures, place)
    write_report(results, figures, place / "report.html")


def save_results(results: Results, place: Path) -> None:
    """Writes results.json, results.csv (a row per run), table.csv and table.md."""
    experiment = results.experiment
    ranks = [
        {"metric": metric, "target": target, **dataclasses.asdict(rank)}
        for (metric, target), rank in results.ranks.items()
    ]
    content = {
        "kind": _KIND,
        "version": 1,
        "experiment": experiment.name,
        "title": experiment.title,
        "variable": experiment.variable,
        "num_seeds": experiment.num_seeds,
        "yardsticks": experiment.generalization_measures,
        "settings": [
            {
                "group": setting.group,
                "label": setting.label,
                "data": kind_of(setting.config),
                "factors": setting.factors,
                "paper": setting.paper,
            }
            for setting in experiment.settings
        ],
        "options": results.options,
        "views": experiment.views,
        "runs": results.rows,
        "summary": results.summary(),
        "rank_correlations": ranks,
        "failures": results.failures,
        "notes": results.notes,
    }
    write_json(place / "results.json", content)
    write_csv(place / "results.csv", results.rows)
    write_csv(place / "table.csv", results.summary())
    with replacing(place / "table.md") as temporary:
        temporary.write_text(results.markdown(), encoding="utf-8")


def load_rows(place: Path) -> list[dict[str, Any]]:
    """The rows per run of saved results.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if the file is damaged.
    """
    return read_json(place / "results.json", kind=_KIND, version=1)["runs"]


def load_results(place: Path) -> Results:
    """What `save_results` has written; rank correlations and summary are computed again.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if the file is damaged.
    """
    content = read_json(place / "results.json", kind=_KIND, version=1)
    try:
        settings = tuple(
            Setting(
                label=each["label"],
                group=each["group"],
                config=config_from_dict(each["data"], each["factors"]),
                paper={name: tuple(value) for name, value in each["paper"].items()},
            )
            for each in content["settings"]
        )
        experiment = Experiment(
            name=content["experiment"],
            title=content["title"],
            variable=content["variable"],
            settings=settings,
            num_seeds=content["num_seeds"],
            views=content["views"],
            generalization_measures=content["yardsticks"],
        )
        rows = [_numbers(row) for row in content["runs"]]
        found = Results.collect(experiment, rows, content["failures"], options=content["options"])
        return dataclasses.replace(found, notes=content["notes"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{place / 'results.json'} is damaged: {error!r}") from None


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Reads numbers that are not finite, which JSON cannot express."""
    words = ("inf", "-inf", "nan")
    return {name: float(value) if value in words else value for name, value in row.items()}
