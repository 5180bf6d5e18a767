"""`compare` from Python: reports, models and run folders side by side."""

import csv
import json

import keras
import numpy as np
import pytest

from infomcr_tf import FisherRegularizedModel, characterize, compare

SETTINGS = {"num_trials": 4, "num_samples": 10, "progress": False}


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    return generator.normal(size=(40, 5)).astype(np.float32), np.arange(40) % 3


def model(seed, units=4):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(units, activation="tanh"), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((5,)), *layers])


@pytest.fixture(scope="module")
def models(data):
    return {"a": model(0), "b": FisherRegularizedModel(model(1))}


@pytest.fixture(scope="module")
def comparison(models, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    found = compare(models, *data, test_data=data, out=out, **SETTINGS)
    return found, out


def test_models_have_the_numbers_of_characterize_and_their_own_error(models, data, comparison):
    rows = {row["run"]: row for row in comparison[0].to_rows()}
    for name, each in models.items():
        report = characterize(each, *data, **SETTINGS)
        assert rows[name]["gamma_hat"] == report.gamma_hat
        assert rows[name]["gamma_hat_std"] == report.gamma_hat_std
        assert rows[name]["num_samples"] == 10
        outputs = getattr(each, "model", each).predict(data[0], verbose=0)
        assert rows[name]["test_error"] == np.mean(np.argmax(outputs, 1) != data[1])
    values = [row["gamma_hat"] for row in comparison[0].to_rows()]
    assert values == sorted(values)


def test_what_is_written_is_what_is_returned(comparison):
    found, out = comparison
    names = {path.name for path in out.iterdir()} - {".lock"}
    # No run, so no training.
    assert names == {
        "comparison.json",
        "comparison.csv",
        "comparison.png",
        "per_layer.csv",
        "per_layer.png",
    }
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["gamma_hat"]) for row in rows] == [r["gamma_hat"] for r in found.to_rows()]
    content = json.loads((out / "comparison.json").read_text())
    assert [each["name"] for each in content["minima"]] == ["a", "b"]
    assert len((out / "comparison.png").read_bytes()) < 150_000


def test_table_says_what_may_not_be_compared(models, data):
    small = characterize(models["a"], *data, num_trials=2, num_samples=5, progress=False)
    large = characterize(models["a"], *data, num_trials=2, num_samples=6, progress=False)
    found = compare({"small": small, "large": large})
    assert [row["num_samples"] for row in found.to_rows()].count(5) == 1
    assert "N' differs" in str(found)
    assert "N' differs".replace("'", "&#x27;") in found._repr_html_()
    assert not compare({"small": small, "same": small}).notes
    other = characterize(
        models["a"], *data, num_trials=2, num_samples=5, progress=False, normalize_logits=0.1
    )
    assert "normalize_logits" in str(compare({"small": small, "other": other}))
    wide = characterize(model(0, units=6), *data, num_trials=2, num_samples=5, progress=False)
    assert "numbers of parameters" in str(compare({"small": small, "wide": wide}))


def test_saved_reports_are_read(models, data, tmp_path):
    report = characterize(models["a"], *data, **SETTINGS)
    report.save(tmp_path / "a.json")
    found = compare({"file": tmp_path / "a.json", "report": report})
    first, second = (each.report.to_dict() for each in found.minima)
    assert first == second
    assert found.plot_training() is None


@pytest.mark.parametrize(
    ("minima", "error", "message"),
    [
        ([], TypeError, "`minima` must be a mapping"),
        ({}, TypeError, "at least one"),
        ({"a": 3}, TypeError, "'a' of type int"),
        ({"a": "nowhere"}, FileNotFoundError, "nowhere"),
        ({"a": "nowhere.json"}, FileNotFoundError, "nowhere"),
    ],
)
def test_mistakes(minima, error, message):
    with pytest.raises(error, match=message):
        compare(minima, **SETTINGS)


def test_a_model_needs_its_training_set(models):
    with pytest.raises(ValueError, match="`x` and `y`"):
        compare({"a": models["a"]}, **SETTINGS)
