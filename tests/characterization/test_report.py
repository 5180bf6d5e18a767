"""`MinimumReport`: means, derived numbers, files."""

import json
import math

import numpy as np
import pytest

from infomcr_tf.characterization import MinimumReport, gamma_from_gamma_hat


def make_report(**changes):
    trials = {
        "train_loss": np.array([0.01, 0.03]),
        "train_accuracy": np.array([1.0, 1.0]),
        "num_kept": np.array([10, 10]),
        "gamma_hat": np.array([-90.0, -110.0]),
        "spectral_radius": np.array([3.0, 5.0]),
        "frobenius_norm_cross": np.array([0.1, 0.3]),
        "rank": np.array([10.0, 9.0]),
        "rank_tolerance": np.array([1e-10, 2e-10]),
    }
    arguments = {
        "num_parameters": 50,
        "num_examples": 200,
        "num_samples": 10,
        "trials": trials,
        "robustness": 0.25,
        "robustness_std": 0.1,
        "settings": {"seed": 3, "metrics": ["gamma_hat"], "normalize_logits": None},
    }
    return MinimumReport(**{**arguments, **changes})


def test_means_and_spread_over_trials():
    report = make_report()
    assert report.num_trials == 2
    assert report.gamma_hat == -100
    assert report.gamma_hat_std == 10
    assert report.spectral_radius == 4
    assert report.fisher_spectral_radius == pytest.approx(0.4)
    assert report.rank == 9.5
    assert report.rank_tolerance == 2e-10
    assert report.train_loss == pytest.approx(0.02)
    assert report.log_singular_value_sum == -50
    expected = gamma_from_gamma_hat(-100, num_parameters=50, num_samples=10)
    assert report.gamma == pytest.approx(expected, rel=1e-14)


def test_what_was_not_measured_is_none_and_not_written():
    report = make_report(trials={}, robustness=0.5)
    assert report.gamma_hat is None
    assert report.gamma is None
    assert report.log_singular_value_sum is None
    assert report.trace is None
    assert report.num_trials == 0
    assert "gamma_hat" not in report.to_dict()
    assert report.to_dict()["robustness"] == 0.5
    with pytest.raises(ValueError, match="gamma_hat"):
        report.generalization_bound()


def test_gamma_with_examples_left_out_uses_each_trials_own_size():
    trials = {"gamma_hat": np.array([-90.0, -88.0]), "num_kept": np.array([9, 8])}
    report = make_report(trials=trials)
    assert report.num_excluded == 3
    assert report.gamma == pytest.approx(50 * (-10 - 11) / 2 - 50 * math.log(50), rel=1e-14)


def test_bound_takes_everything_from_the_report():
    with pytest.warns(UserWarning, match="no upper"):
        bound = make_report().generalization_bound(delta=0.1)
    h = 0.02 + bound.A
    expected = h + 2 * math.sqrt((2 * h + math.log(2 * 200 / 0.1)) / 199)
    assert bound.bound == pytest.approx(expected, rel=1e-12)


def test_round_trip_with_numbers_that_are_not_finite(tmp_path):
    trials = dict(make_report().trials)
    trials["gamma_hat"] = np.array([-np.inf, -110.0])
    report = make_report(trials=trials, robustness=math.nan)
    path = tmp_path / "report.json"
    report.save(path)
    # Strict JSON: no bare NaN or Infinity.
    json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(word))
    loaded = MinimumReport.load(path)
    assert loaded.gamma_hat == -np.inf
    assert math.isnan(loaded.gamma_hat_std)
    assert math.isnan(loaded.robustness)
    for name, values in report.trials.items():
        np.testing.assert_array_equal(loaded.trials[name], values)
        assert loaded.trials[name].dtype == values.dtype
    assert loaded.settings == report.settings
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged"),
        ("{", "damaged"),
        ("[1]", "not a infomcr_tf.MinimumReport file"),
        ('{"kind": "something else"}', "not a infomcr_tf.MinimumReport file"),
        ('{"kind": "infomcr_tf.MinimumReport", "version": 99}', "version 99"),
        ('{"kind": "infomcr_tf.MinimumReport", "version": 1}', "damaged"),
        (
            '{"kind": "infomcr_tf.MinimumReport", "version": 1, "num_parameters": 1, '
            '"num_examples": 1, "num_samples": 1, "settings": {}, "trials": {"trace": ["x"]}}',
            "damaged",
        ),
    ],
)
def test_damaged_files_are_named(tmp_path, text, message):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        MinimumReport.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        MinimumReport.load(tmp_path / "none.json")


def test_reports_are_frozen():
    with pytest.raises(AttributeError):
        make_report().num_parameters = 3
