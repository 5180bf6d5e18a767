"""Paired comparisons and the figures of experiments."""

import math

import numpy as np
import pytest
from scipy import stats

from infomcr_tf.experiments.experiment import Experiment, Setting
from infomcr_tf.experiments.figures import draw_figures, paired_difference, save_figures
from infomcr_tf.experiments.results import Results
from infomcr_tf.training import CifarConfig


def test_the_interval_is_students():
    without, penalised = [3.0, 4.0, 5.5, 2.0], [2.5, 3.9, 5.0, 2.2]
    mean, low, high = paired_difference(without, penalised)
    found = stats.ttest_rel(penalised, without).confidence_interval(0.95)
    assert (low, high) == pytest.approx((found.low, found.high))
    assert mean == pytest.approx(np.mean(penalised) - np.mean(without))


def test_a_single_pair_has_no_interval():
    mean, low, high = paired_difference([1.0], [3.0])
    assert mean == 2.0
    assert math.isnan(low)
    assert math.isnan(high)


def results(labels, variable, seeds=3):
    """Made-up runs; only their drawing is looked at."""
    settings = tuple(
        Setting(label=label, group=group, config=CifarConfig(dataset="digits"))
        for group in ("digits cnn", "digits resnet20")
        for label in labels
    )
    experiment = Experiment(
        name="table1",
        title="t",
        variable=variable,
        settings=settings,
        num_seeds=seeds,
        views={"raw": {"num_trials": 7, "num_samples": 9}},
    )
    rows = [
        {
            "group": setting.group,
            "label": setting.label,
            "seed": seed,
            "run": f"{i}-{seed}",
            "train_error": 0.0,
            "test_error": 5.0 + i + seed,
            "gap": 5.0,
            "gamma_hat": -90.0 - i,
            "frobenius_norm": 10.0 ** (i + seed),
            "train_loss": 0.01,
        }
        for i, setting in enumerate(settings)
        for seed in range(seeds)
    ]
    return Results(experiment=experiment, rows=rows, failures={}, notes=(), options={}, ranks={})


def test_with_and_without_the_penalty_each_seed_is_a_pair(tmp_path):
    figures = draw_figures(results(("without", "with (beta 10)"), "penalty"))
    axes = figures["figure"].axes
    panels = ["test error (%)", r"$\hat\gamma$ (nat)", "Frobenius norm (nat⁴)"]
    titles = [axis.get_title(loc="left").split("\n")[0] for axis in axes]
    assert [title for title in titles if title] == 2 * panels
    first = axes[0]
    pairs = [line for line in first.lines if line.get_linestyle() == "-"]
    assert [list(line.get_xdata()) for line in pairs] == [[5, 6], [6, 7], [7, 8]]
    assert [label.get_text() for label in first.get_yticklabels()] == ["seed 0", "seed 1", "seed 2"]
    difference = axes[3]
    assert [label.get_text() for label in difference.get_yticklabels()] == ["difference"]
    assert "n = 3" in figures["figure"].get_supxlabel()
    save_figures(figures, tmp_path)
    assert (tmp_path / "figure.png").stat().st_size < 150_000
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")


def test_other_settings_are_dots_and_no_lines_join_them():
    figure = draw_figures(results(("0", "100", "300"), "confusion set"))["figure"]
    for axis in figure.axes:
        assert all(line.get_linestyle() in ("None", "none", " ") for line in axis.lines)
    scales = {axis.get_title(loc="left"): axis.get_yscale() for axis in figure.axes[:3]}
    assert scales["Frobenius norm (nat⁴)"] == "log"
    assert scales["test error (%)"] == "linear"
    assert "N' = 9" in figure.get_supxlabel()
