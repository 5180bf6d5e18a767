"""`--deterministic`: the same seed, the same bits."""

import json

import numpy as np
import pytest

from infomcr_tf.training import load_model

FLAGS = [
    "--dataset=digits",
    "--model=cnn",
    "--train-size=60",
    "--batch-size=20",
    "--epochs=2",
    "--regularize=always",
    "--num-sub-batches=4",
    "--deterministic",
    "--augmentation=1-crop-f",
]


@pytest.mark.slow
def test_two_processes_end_with_the_same_bits(server, tmp_path):
    models = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        flags = [*FLAGS, f"--seed={seed}", f"--run-dir={tmp_path / name}"]
        assert server.run("train_cifar", flags) == 0, server.output
        models.append(load_model(tmp_path / name / "model.keras").get_weights())
        config = json.loads((tmp_path / name / "config.json").read_text())["config"]
        assert config["deterministic"] is True
    same = [np.array_equal(a, b) for a, b in zip(models[0], models[1], strict=True)]
    assert all(same)
    assert not np.array_equal(models[0][0], models[2][0])
