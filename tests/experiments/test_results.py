"""Tables, remarks, figures and the report, from rows that were written by hand."""

import csv
import dataclasses
import html.parser
import json
import math
import re

import numpy as np
import pytest

from infomcr_tf.experiments.experiment import Experiment, Setting
from infomcr_tf.experiments.figures import draw_figures, save_figures
from infomcr_tf.experiments.html_report import write_report
from infomcr_tf.experiments.redraw import redraw_from_flags
from infomcr_tf.experiments.results import Results, together
from infomcr_tf.experiments.saved_results import load_results, load_rows, save_results
from infomcr_tf.training import CifarConfig


def experiment(name="scenario", **options):
    settings = tuple(
        Setting(
            label=str(size),
            config=CifarConfig(confusion_size=size, regularize="never"),
            paper={"test_error": (8.5, 0.31)} if size == 0 else {},
        )
        for size in (0, 10)
    )
    values = {"name": name, "title": "A <title>", "variable": "confusion set", "num_seeds": 2}
    return Experiment(
        **{**values, "settings": settings, "views": {"raw": {"num_trials": 3}}, **options}
    )


def rows(**changes):
    errors = {("0", 0): 10.0, ("0", 1): 12.0, ("10", 0): 20.0, ("10", 1): 23.0}
    return [
        {
            "run": f"run-{label}-{seed}",
            "group": "",
            "label": label,
            "seed": seed,
            "epochs": 5,
            "train_loss": 0.01,
            "train_error": 0.0,
            "test_error": error,
            "gap": error,
            "gamma_hat": -100.0 + error,
            "gamma_hat_equalized": -error,
            "equalized_excluded": 0.0,
            **changes,
        }
        for (label, seed), error in errors.items()
    ]


@pytest.fixture
def results():
    return Results.collect(experiment(), rows(), {"run-lost": "ValueError: <no> data"})


def test_means_and_deviations_over_seeds_beside_the_papers_values(results):
    first, second = results.summary()
    assert (first["runs"], first["test_error"]) == (2, 11.0)
    assert first["test_error_std"] == pytest.approx(math.sqrt(2))  # ddof 1
    assert (first["test_error_paper"], first["test_error_paper_std"]) == (8.5, 0.31)
    assert "test_error_paper" not in second
    heading, *lines = results.table()
    column = heading.index("test error % (paper)")
    assert heading[column - 1] == "test error %"
    assert lines[0][column - 1 : column + 1] == ["11 ± 1.4", "8.5 ± 0.31"]
    assert lines[1][column] == "-"


def test_rank_correlations_of_every_metric_with_error_and_gap(results):
    assert results.ranks["gamma_hat", "test_error"].tau == 1
    assert results.ranks["gamma_hat_equalized", "gap"].tau == -1
    assert results.ranks["gamma_hat_equalized", "gap"].granulated == -1
    assert ("robustness", "gap") not in results.ranks


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"reached_target": False}, "NOT at the stated training loss .*4 of 4"),
        ({"train_error": 7.25}, "NOT near zero in 4 of 4 runs .*at most 7.25 %"),
        ({"equalized_excluded": 0.1}, "'left out'"),
    ],
)
def test_says_where_minima_may_not_be_compared(changes, expected):
    found = Results.collect(experiment(), rows(**changes), {})
    assert re.search(expected, " ".join(found.notes)), found.notes


def test_no_remark_where_nothing_is_wrong():
    found = Results.collect(experiment(), rows(reached_target=True), {}, notes=["mine"])
    assert found.notes == ["mine"]


def test_files_hold_everything(results, tmp_path):
    save_results(results, tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["runs"] == load_rows(tmp_path) == [dict(row) for row in results.rows]
    assert content["failures"] == {"run-lost": "ValueError: <no> data"}
    assert content["settings"][1]["factors"]["confusion_size"] == 10
    assert len(content["rank_correlations"]) == 2 * len({metric for metric, _ in results.ranks})
    with (tmp_path / "results.csv").open() as file:
        assert [row["run"] for row in csv.DictReader(file)] == [row["run"] for row in results.rows]
    with (tmp_path / "table.csv").open() as file:
        assert float(next(csv.DictReader(file))["test_error"]) == 11
    text = (tmp_path / "table.md").read_text()
    assert "FAILED: run-lost" in text
    assert "| 0 | 2 |" in text


def test_saved_results_are_loaded_as_they_were(tmp_path):
    several = rows()
    several[0]["gamma_hat"] = -math.inf
    options = {"0": {"confusion_size": 0}}
    results = Results.collect(
        experiment(generalization_measures=True), several, {"lost": "why"}, ["mine"], options
    )
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    save_results(results, tmp_path / "first")
    loaded = load_results(tmp_path / "first")
    same = dataclasses.replace(results.experiment, settings=loaded.experiment.settings)
    # The rank correlations, of which some are nan, are compared in the files below.
    wanted = dataclasses.replace(results, experiment=same, ranks={})
    assert dataclasses.replace(loaded, ranks={}) == wanted
    before, after = results.experiment.settings, loaded.experiment.settings
    assert [(s.title, s.factors, dict(s.paper)) for s in after] == [
        (s.title, s.factors, dict(s.paper)) for s in before
    ]
    save_results(loaded, tmp_path / "second")
    for name in ("results.json", "results.csv", "table.md"):
        first, second = ((tmp_path / place / name).read_text() for place in ("first", "second"))
        assert first == second


def test_the_report_of_saved_results_is_drawn_again(results, tmp_path, capsys):
    save_results(results, tmp_path)
    assert redraw_from_flags([str(tmp_path)]) == 0
    drawn = {"figure.png", "figure.svg", "scatter.png", "scatter.svg", "report.html"}
    assert drawn <= {path.name for path in tmp_path.iterdir()}
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    (tmp_path / "results.json").write_text('{"kind": "infomcr_tf experiment", "version": 1}')
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SystemExit) as stopped:
            redraw_from_flags([str(place)])
        assert stopped.value.code == 2
        assert "results.json" in capsys.readouterr().err


def test_figures_are_png_and_svg_and_survive_singular_matrices(tmp_path):
    several = rows()
    several[0]["gamma_hat"] = -math.inf
    with np.errstate(invalid="raise"):
        figures = draw_figures(Results.collect(experiment(), several, {}))
    save_figures(figures, tmp_path)
    assert set(figures) == {"figure", "scatter"}
    for name in figures:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()
    assert draw_figures(Results.collect(experiment(), [], {})) == {}


class Page(html.parser.HTMLParser):
    """Counts elements and collects what a page would load."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href") and not v.startswith("#")]
        self.loads += [
            v for k, v in attrs if k == "xlink:href" and not v.startswith(("#", "data:"))
        ]


def test_report_is_one_file_with_figures_tables_and_settings(results, tmp_path):
    options = {"10": {"confusion_size": 10, "note": "<b>"}}
    results = dataclasses.replace(results, options=options)
    write_report(results, draw_figures(results), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.loads == []
    assert page.tags.count("svg") == 2
    assert page.tags.count("table") == 4  # means, ranks, runs, failures
    assert "A &lt;title&gt;" in text and "<no>" not in text
    assert "confusion_size = 10\nnote = &lt;b&gt;" in text
    assert "num_trials = 3" in text
    assert all(row["run"] in text for row in results.rows)


def test_experiments_together_rank_each_run_once():
    first = Results.collect(experiment("a"), rows(), {})
    second = Results.collect(experiment("b"), [rows()[0], {**rows()[1], "run": "other"}], {})
    both = together([first, second])
    assert [(line["setting"], line["runs"]) for line in both.summary()] == [
        ("a 0", 2),
        ("a 10", 2),
        ("b 0", 2),
        ("b 10", 0),
    ]
    assert both.ranks["gamma_hat", "test_error"].num_runs == 5
