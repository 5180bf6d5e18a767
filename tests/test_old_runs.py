"""What was written before the modules had their present places still loads."""

import json
import shutil
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from packaging import version

from infomcr_tf import MinimumReport, characterize
from infomcr_tf.characterization import METRICS
from infomcr_tf.comparison import ComparisonOptions, DataOptions, Minimum, compare
from infomcr_tf.training import RunFolder, TrainingRun

OLD = Path(__file__).parent / "old_runs"
WRITTEN_BY = json.loads((OLD / "run" / "config.json").read_text())["versions"]["keras"]
# Keras reads what older versions of it have written, and not always what newer ones have.
reads_the_model = pytest.mark.skipif(
    version.parse(keras.__version__) < version.parse(WRITTEN_BY),
    reason=f"the model file is of Keras {WRITTEN_BY}",
)


def test_a_report():
    content = json.loads((OLD / "report.json").read_text())
    report = MinimumReport.load(OLD / "report.json")
    assert report.gamma_hat == content["gamma_hat"]
    assert report.robustness == content["robustness"]
    assert report.to_dict().items() >= {"rank": 10.0, "num_trials": 3}.items()


@reads_the_model
def test_a_complete_run_is_measured_as_it_was(tiny):
    folder = RunFolder.load(OLD / "run")
    assert (folder.config.model, folder.config.validation_size) == (tiny, 20)
    assert [row["epoch"] for row in folder.read_history()] == [1, 2, 3, 4]
    before = json.loads((OLD / "comparison" / "comparison.json").read_text())
    options = ComparisonOptions.from_dict(before["options"])
    compared = compare({"old": OLD / "run"}, progress=False, **options.arguments()).minima[0]
    old, new = before["minima"][0], {"report": compared.report.to_dict()}
    assert compared.result == old["result"]
    for name in ("gamma_hat", "spectral_radius", "robustness", "train_loss"):
        # The same weights and images in float32, perhaps on another processor.
        assert new["report"][name] == pytest.approx(old["report"][name], rel=1e-4), name


@reads_the_model
def test_finished_trials_are_not_measured_again(tiny, tmp_path):
    shutil.copy(OLD / "checkpoint.json", tmp_path / "checkpoint.json")
    minimum = Minimum.open(OLD / "run", DataOptions())
    warnings.simplefilter("error", UserWarning)  # "made with other settings"
    # What "all" meant then.
    old_metrics = [name for name in METRICS if not name.startswith("hessian_")]
    report = characterize(
        minimum.model,
        minimum.x,
        minimum.y,
        metrics=old_metrics,
        num_trials=3,
        num_samples=10,
        num_robustness_examples=20,
        checkpoint=tmp_path / "checkpoint.json",
        progress=False,
    )
    old = MinimumReport.load(OLD / "report.json")
    for name, values in old.trials.items():
        np.testing.assert_array_equal(report.trials[name], values)


def test_an_unfinished_run_is_resumed(tiny, tmp_path):
    shutil.copytree(OLD / "unfinished", tmp_path / "run")
    config = RunFolder.load(tmp_path / "run").config
    values = {**vars(config), "run_dir": str(tmp_path / "run")}
    result = TrainingRun(type(config)(**values)).run(verbose=0)
    rows = RunFolder.load(tmp_path / "run").read_history()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    # What the run gave when it was not interrupted; float32 on perhaps another processor.
    assert result["train"]["loss"] == pytest.approx(2.215368310705673, rel=1e-4)
