"""What a report looks like: `print`, notebooks, rows and the picture."""

import keras
import numpy as np
import pytest

from infomcr_tf import MinimumReport, characterize
from infomcr_tf.characterization.report_table import plus_minus


def report(**changes):
    """Three samples of four examples, all numbers known by hand."""
    values = {
        "num_parameters": 1234,
        "num_examples": 50,
        "num_samples": 4,
        "trials": {
            "gamma_hat": np.array([-10.0, -12.0, -14.0]),
            "trace": np.array([1.0, 2.0, 3.0]),
            "train_loss": np.array([0.1, 0.2, 0.3]),
            "train_accuracy": np.array([1.0, 1.0, 0.25]),
            "num_kept": np.array([4, 4, 3]),
        },
        "settings": {"batch_norm": "inference", "equalize_loss": 0.01, "normalize_logits": None},
        "seconds": 2.5,
    }
    return MinimumReport(**{**values, **changes})


def line(text, start):
    return next(line.split() for line in text.splitlines() if line.strip().startswith(start))


def test_print_has_gamma_hat_first_and_every_count():
    text = str(report())
    body = [line for line in text.splitlines() if line.startswith("  ")]
    assert body[0].split()[:5] == ["gamma_hat", "-12.00", "±", "1.6", "nat"]
    assert line(text, "trace")[:5] == ["trace", "2.000", "±", "0.82", "nat^2"]
    assert "W = 1,234" in text
    assert "T = 3 samples of N' = 4 of the N = 50 examples" in text
    assert "equalize_loss=0.01" in text
    assert line(text, "train error")[2] == "25.00"
    assert line(text, "examples left out")[3:6] == ["1", "of", "12"]
    assert line(text, "singular samples")[2:5] == ["0", "of", "3"]
    assert "robustness" in next(x for x in text.splitlines() if "not measured" in x)
    assert line(text, "time taken")[2:] == ["2.5", "s"]
    # Aligned: the units begin in one column.
    starts = {x.index("nat") for x in body if x.split()[0] in ("gamma_hat", "trace", "gamma")}
    assert len(starts) == 1


def test_singular_samples_are_counted():
    trials = {**report().trials, "gamma_hat": np.array([-10.0, -np.inf, -14.0])}
    text = str(report(trials=trials))
    assert line(text, "singular samples")[2:5] == ["1", "of", "3"]
    assert line(text, "gamma_hat")[1] == "-inf"


def test_rows_keep_unit_and_size():
    rows = {row["name"]: row for row in report().to_rows()}
    assert rows["gamma_hat"]["value"] == -12
    assert rows["gamma_hat"]["std"] == pytest.approx(np.sqrt(8 / 3))
    assert rows["trace"]["unit"] == "nat^2"
    assert {row["num_samples"] for row in rows.values()} == {4}
    assert {row["num_trials"] for row in rows.values()} == {3}
    assert rows["gamma"]["std"] is None


def test_notebooks_get_a_table_with_everything_escaped():
    html = report()._repr_html_()
    assert html.count("<tr>") == html.count("</tr>") > 5
    assert "N&#x27; = 4" in html
    assert "||" in html or "xi" in html
    assert "<script" not in html


def test_repr_is_one_line():
    assert repr(report()) == "<MinimumReport gamma_hat: -12.00 ± 1.6 nat (T=3, N'=4, W=1234)>"
    only_trace = {k: v for k, v in report().trials.items() if k != "gamma_hat"}
    assert "not measured" in repr(report(trials=only_trace))


def test_seconds_are_saved_but_are_no_result(tmp_path):
    report().save(tmp_path / "report.json")
    assert MinimumReport.load(tmp_path / "report.json").seconds == 2.5
    assert "seconds" not in report().to_dict()
    report(seconds=None).save(tmp_path / "report.json")
    assert MinimumReport.load(tmp_path / "report.json").seconds is None


def test_plot_has_a_panel_for_each_metric(tmp_path):
    picture = report().plot()
    titles = [axis.get_title(loc="left") for axis in picture.axes if axis.get_visible()]
    assert titles == [r"$\hat\gamma$", "trace"]
    assert [axis.get_xlabel() for axis in picture.axes[:2]] == ["nat", "nat²"]
    assert "N' = 4" in picture.get_supxlabel()
    assert "data:image/png;base64," in picture._repr_html_()
    picture.savefig(tmp_path / "report.png")
    with pytest.raises(ValueError, match="A plot needs a metric"):
        report(trials={}).plot()


def test_the_spectrum_is_that_of_xi(tmp_path):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    y = np.arange(8) % 3
    found = characterize(model, x, y, num_trials=1, num_samples=8, progress=False)
    p = np.exp(x.astype(float) @ model.get_weights()[0].astype(float))
    p /= p.sum(axis=1, keepdims=True)
    d = p - np.eye(3)[y]
    xi = (d @ d.T) * (x.astype(float) @ x.T.astype(float) + 1)  # a linear softmax with bias
    eigenvalues = np.linalg.eigvalsh(xi)
    for percent in (0, 50, 95):
        expected = np.quantile(eigenvalues, percent / 100)
        # float32 rows are off by 1e-6 of their norm, and so are eigenvalues, of the largest.
        assert found.trials[f"eigenvalue_{percent}_percent"][0] == pytest.approx(
            expected, abs=1e-5 * eigenvalues[-1]
        )
    titles = [axis.get_title(loc="left") for axis in found.plot().axes]
    assert r"eigenvalues of $\xi$" in titles
    found.save(tmp_path / "report.json")
    assert MinimumReport.load(tmp_path / "report.json").to_dict() == found.to_dict()
    only_trace = characterize(
        model, x, y, num_trials=1, num_samples=8, metrics="trace", progress=False
    )
    assert not any(name.startswith("eigenvalue") for name in only_trace.trials)


def test_a_measurement_knows_how_long_it_took():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    x, y = np.eye(6, 3, dtype=np.float32) + 1, np.arange(6) % 2
    found = characterize(model, x, y, num_trials=2, num_samples=3, metrics="trace", progress=False)
    assert found.seconds > 0
    assert "time taken" in str(found)


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (-243.1234, 8.345, "-243.1 ± 8.3"),
        (0.5775, 0.1612, "0.5775 ± 0.16"),
        (15350.0, 2200.0, "15,350 ± 2,200"),
        (1.095e6, 2.9e5, "1.095e+06 ± 2.9e+05"),
        (0.00137, 0.00151, "0.001370 ± 0.0015"),
        (50.0, 0.0, "50"),
        (50.0, None, "50"),
        (-np.inf, np.nan, "-inf ± nan"),
    ],
)
def test_numbers_with_their_spread(value, spread, text):
    assert plus_minus(value, spread) == text
