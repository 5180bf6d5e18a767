"""characterize.py: from run folders and model files to a table, files and a picture."""

import csv
import json
import re

import keras
import numpy as np
import pytest

import characterize
import infomcr_tf
from infomcr_tf.comparison import DataOptions, Minimum
from infomcr_tf.training import CifarConfig, TrainingRun, load_model

SMALL = {
    "dataset": "digits",
    "model": "small_cnn",
    "train_size": 60,
    "validation_size": 20,
    "batch_size": 20,
    "epochs": 4,
    "num_sub_batches": 4,
    "confusion_size": 20,
    "augmentation": "1-crop-f",
}
QUICK = ["--num-trials", "3", "--num-samples", "12"]


@pytest.fixture(scope="module")
def runs(small_cnn, tmp_path_factory):
    """Two finished runs, without and with the penalty."""
    root = tmp_path_factory.mktemp("runs")
    paths = []
    for name, regularize in (("plain", "never"), ("regularized", "after-first-drop")):
        config = CifarConfig(**SMALL, regularize=regularize, run_dir=str(root / name), seed=5)
        TrainingRun(config).run(verbose=0)
        paths.append(str(root / name))
    return paths


@pytest.fixture(scope="module")
def compared(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison")
    assert characterize.main([*runs, *QUICK, "--out", str(out)]) == 0
    return out


def test_writes_table_numbers_and_picture(runs, compared):
    names = {path.name for path in compared.iterdir()}
    assert names == {
        "comparison.json",
        "comparison.csv",
        "comparison.png",
        "per_layer.csv",
        "per_layer.png",
        "training.png",
    }
    content = json.loads((compared / "comparison.json").read_text())
    assert [minimum["name"] for minimum in content["minima"]] == runs
    assert len(content["minima"][0]["report"]["trials"]["gamma_hat"]) == 3
    with (compared / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = [float(row["gamma_hat"]) for row in rows]
    assert values == sorted(values)  # lowest, best, first
    for row in rows:
        minimum = content["minima"][runs.index(row["run"])]
        assert float(row["gamma_hat"]) == minimum["report"]["gamma_hat"]
        assert float(row["test_error"]) == minimum["result"]["test"]["error"]
        for name in ("spectral_radius", "frobenius_norm", "robustness", "trace", "rank"):
            assert float(row[f"{name}_std"]) >= 0
    assert (compared / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_measures_each_run_on_its_own_unaugmented_subset_without_the_confusion_set(runs, compared):
    """The numbers are those of `characterize` on the subset drawn by hand."""
    images = infomcr_tf.data.load_dataset("digits")
    splits = infomcr_tf.data.split_dataset(images, train_size=60, validation_size=20, seed=5)
    pixels = splits.train.images.astype(np.float64)
    x = ((pixels - pixels.mean()) / pixels.std()).astype(np.float32)
    report = infomcr_tf.characterize(
        load_model(f"{runs[1]}/model.keras"),
        x,
        splits.train.labels,
        num_trials=3,
        num_samples=12,
        progress=False,
    )
    content = json.loads((compared / "comparison.json").read_text())
    numbers = content["minima"][1]["report"]
    # The images differ by float32 rounding; gamma_hat is a sum of 12 logarithms.
    np.testing.assert_allclose(
        numbers["trials"]["gamma_hat"], report.trials["gamma_hat"], rtol=1e-3
    )
    assert numbers["robustness"] == pytest.approx(report.robustness, rel=1e-3)
    assert numbers["num_examples"] == 60


def test_same_command_again_goes_on_from_finished_trials(runs, tmp_path, monkeypatch, capsys):
    out = ["--out", str(tmp_path), "--metrics", "gamma_hat,trace"]
    import infomcr_tf.comparison.compared as comparison

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # interrupted when all trials are done
        patch.setattr(comparison, "plot_comparison", fail)
        assert characterize.main([*runs, *QUICK, *out]) == 130
    assert "give the same command again to resume" in capsys.readouterr().out
    checkpoint = tmp_path / "checkpoint-0.json"
    state = json.loads(checkpoint.read_text())
    state["trials"]["1"]["trace"] = 123.0  # found again in the result if it is not recomputed
    checkpoint.write_text(json.dumps(state))
    assert characterize.main([*runs, *QUICK, *out]) == 0
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["minima"][0]["report"]["trials"]["trace"][1] == 123.0
    assert not list(tmp_path.glob("checkpoint*"))


def test_only_the_selected_metrics_are_shown(runs, tmp_path, capsys):
    assert characterize.main([runs[0], *QUICK, "--out", str(tmp_path), "--metrics", "trace"]) == 0
    table = capsys.readouterr().out
    assert "trace" in table
    assert "gamma_hat" not in table


def test_model_file_with_a_named_data_set(runs, compared, tmp_path, capsys):
    """A `.keras` file gives the numbers of the run folder that it came from."""
    flags = ["--dataset", "digits", "--train-size", "60", "--validation-size", "20"]
    flags += ["--data-seed", "5", *QUICK, "--metrics", "gamma_hat", "--out", str(tmp_path)]
    assert characterize.main([f"{runs[0]}/model.keras", *flags]) == 0
    file = json.loads((tmp_path / "comparison.json").read_text())["minima"][0]
    run = json.loads((compared / "comparison.json").read_text())["minima"][0]
    assert file["report"]["gamma_hat"] == run["report"]["gamma_hat"]
    assert file["result"]["test"] == run["result"]["test"]


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param("mse", marks=pytest.mark.slow),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=3),
    ],
)
def test_model_file_that_was_compiled_with_another_loss(runs, tmp_path, capsys, loss):
    """It is refused with a line that says how to measure its own loss, which then is measured."""
    model = load_model(f"{runs[0]}/model.keras")
    assert not model.compiled
    model.compile("sgd", loss)
    model.save(tmp_path / "other.keras")
    flags = [str(tmp_path / "other.keras"), "--dataset", "digits", *QUICK, "--metrics", "trace"]
    flags += ["--num-images", "30", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        characterize.main(flags)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search("a model compiled with (mse|Sparse).*--loss compiled", error), error
    found = []
    for name in ["compiled", "mse"] if loss == "mse" else ["compiled"]:
        assert characterize.main([*flags, "--loss", name]) == 0
        content = json.loads((tmp_path / "out" / "comparison.json").read_text())
        found.append(content["minima"][0]["report"]["trials"]["trace"])
    assert found[0] == found[-1]
    minimum = Minimum.open(flags[0], DataOptions(dataset="digits", num_images=30))
    y = np.eye(10)[minimum.y] if loss == "mse" else minimum.y
    options = {"metrics": "trace", "num_trials": 3, "num_samples": 12, "progress": False}
    report = infomcr_tf.characterize(model, minimum.x, y, loss=loss, **options)
    np.testing.assert_allclose(found[0], report.trials["trace"], rtol=1e-5)


def test_authors_protocol(runs, tmp_path, capsys):
    flags = ["--protocol", "authors", "--num-trials", "2", "--num-samples", "10"]
    flags += ["--metrics", "gamma_hat", "--out", str(tmp_path)]
    assert characterize.main([runs[0], *flags]) == 0
    assert "sum ln(sing. values)" in capsys.readouterr().out
    with (tmp_path / "comparison.csv").open() as file:
        row = next(csv.DictReader(file))
    assert float(row["log_singular_value_sum"]) == float(row["gamma_hat"]) / 2


def _mistakes(runs, tmp_path):
    incomplete = tmp_path / "incomplete"
    TrainingRun(CifarConfig(**SMALL, regularize="never", run_dir=str(incomplete)))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text('{"kind": "infomcr')
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"PK\x03\x04 not a model")
    other = tmp_path / "other.keras"
    keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]).save(
        other
    )
    (tmp_path / "file").write_text("")
    return [
        ([tmp_path / "nowhere"], "not a run folder"),
        ([incomplete], "not complete"),
        ([damaged], "damaged"),
        ([tmp_path / "missing.keras", "--dataset", "digits"], "no model file"),
        ([broken, "--dataset", "digits"], "not a Keras model file"),
        ([f"{runs[0]}/model.keras"], "needs `--dataset`"),
        ([f"{runs[0]}/model.keras", "--dataset", "digit"], "Did you mean 'digits'"),
        ([other, "--dataset", "digits"], r"\(8, 8, 1\) with 10 classes"),
        ([runs[0], "--num-samples", "61"], "num_samples.*61.*60"),
        ([runs[0], "--metrics", "gama_hat"], "Did you mean 'gamma_hat'"),
        ([runs[0], *QUICK, "--method", "magic"], "method.*magic"),
        ([runs[0], *QUICK, "--loss", "no_such_loss"], "`loss` must be a name that Keras knows"),
        ([runs[0], *QUICK, "--loss", "compiled"], "needs a model that was compiled with a loss"),
        ([runs[0], "--num-trials", "0"], "--num-trials.*>= 1"),
        ([runs[0], "--normalize-logits", "0"], "--normalize-logits.*above 0"),
        ([runs[0], "--protocol", "author"], "Did you mean 'authors'"),
        ([runs[0], "--data-dir", tmp_path / "nowhere"], "existing folder"),
        ([runs[0], "--out", tmp_path / "file"], "file"),
        ([runs[0], "--num-trial", "3"], "Did you mean '--num-trials'"),
    ]


def test_mistakes_get_one_line_and_status_2(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flags, message in _mistakes(runs, tmp_path):
        with pytest.raises(SystemExit) as caught:
            characterize.main([str(text) for text in flags])
        error = capsys.readouterr().err
        assert caught.value.code == 2, flags
        assert error.count("\n") == 1, error
        assert re.search(message, error), error
    assert not list(tmp_path.rglob("comparison.json"))
