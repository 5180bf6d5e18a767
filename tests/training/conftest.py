import pytest

from infomcr_tf.training import CifarConfig, TrainingRun

# 60 real digits in 3 batches: an epoch takes a fraction of a second.
SMALL = {
    "dataset": "digits",
    "model": "small_cnn",
    "train_size": 60,
    "validation_size": 30,
    "batch_size": 20,
    "epochs": 4,
    "num_sub_batches": 4,
    "seed": 3,
}


@pytest.fixture
def small_config(small_cnn, tmp_path):
    """Makes the configuration of a small run, changed by keyword arguments."""

    def make(**changes):
        return CifarConfig(**{**SMALL, "run_dir": str(tmp_path / "run"), **changes})

    return make


@pytest.fixture(scope="session")
def finished(small_cnn, tmp_path_factory):
    """A finished small run with the penalty on from the first drop: (run, result)."""
    path = tmp_path_factory.mktemp("finished") / "run"
    run = TrainingRun(CifarConfig(**SMALL, run_dir=str(path)))
    return run, run.run(verbose=0)
