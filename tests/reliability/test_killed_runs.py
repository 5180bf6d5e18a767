"""Processes that are killed: the same command goes on and ends as if nothing had happened."""

import json
import random
import signal

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from infomcr_tf.command_line.options import flag
from infomcr_tf.training import load_model

KILLED = -9
SETTINGS = {
    "dataset": "digits",
    "model": "cnn",
    "train_size": 100,
    "validation_size": 30,
    "batch_size": 10,
    "num_sub_batches": 2,
    "epochs": 6,
    "seed": 5,
    "augmentation": "1-crop-f",
    "save_every": "3",
    "learning_rate": 0.02,
}
STEPS = 60
# So small a learning rate that the loss stays where it is: the rate falls often.
PLATEAU = {"schedule": "plateau", "patience": 1, "learning_rate": 1e-6}
KINDS = {
    "recipe without penalty": {"regularize": "never"},
    "recipe with penalty": {"regularize": "after-first-drop"},
    "plateau without penalty": PLATEAU | {"regularize": "never"},
    "plateau with penalty": PLATEAU | {"regularize": "after-first-drop"},
}


def flags(settings, path):
    return [f"{flag(k)}={v}" for k, v in (SETTINGS | settings | {"run_dir": path}).items()]


def scalars(logs):
    """{(folder, tag, step): value}; a repeated epoch must have the same values."""
    found = {}
    for file in sorted(logs.rglob("events.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                key = (file.parent.name, value.tag, event.step)
                number = float(tensor_util.make_ndarray(value.tensor))
                assert found.setdefault(key, number) == number, key
    return found


def assert_same_run(path, whole):
    names = {"config.json", "history.csv", "logs", "model.keras", "result.json"}
    assert {file.name for file in path.iterdir()} == names
    for name in ("history.csv", "result.json"):
        assert (path / name).read_text() == (whole / name).read_text(), name
    weights = [load_model(one / "model.keras").get_weights() for one in (path, whole)]
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert scalars(path / "logs") == scalars(whole / "logs") != {}


def random_kill(generator):
    """Within a step, or where a file is written."""
    if generator.random() < 0.5:
        return {"io": generator.randint(1, 40)}
    return {"step": generator.randint(1, STEPS), "seconds": generator.uniform(0, 0.05)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_kills_at_random_moments_leave_no_trace(kind, server, tmp_path, record_property):
    whole = tmp_path / "whole"
    assert server.run("train_cifar", flags(KINDS[kind], whole)) == 0, server.output
    generator = random.Random(kind)
    kills = runs = 0
    while kills < 20:
        path = tmp_path / f"run{runs}"
        while True:
            kill = random_kill(generator) if kills < 20 else None
            status = server.run("train_cifar", flags(KINDS[kind], path), kill)
            assert status in (0, KILLED), (kill, server.output)
            if status == 0:
                break
            kills += 1
        assert_same_run(path, whole)
        runs += 1
    record_property("kills", kills)
    print(f"{kind}: {kills} kills in {runs} runs")


SMALL = KINDS["plateau with penalty"] | {"train_size": 30, "epochs": 3, "save_every": "2"}


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """A small run that was not interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert server.run("train_cifar", flags(SMALL, path)) == 0, server.output
    return path


def test_kills_signals_and_a_full_disk_leave_no_trace(server, whole, tmp_path):
    path = tmp_path / "run"
    kills = [
        # In the last step of the first epoch, when one checkpoint has been written.
        ({"step": 3, "seconds": 0.0}, KILLED),
        # In the writing of the next one, which is cut in half.
        ({"io": 8}, KILLED),
        ({"step": 2, "seconds": 0.0, "signal": signal.SIGTERM}, 143),
        ({"step": 1, "seconds": 0.0, "signal": signal.SIGINT}, 130),
    ]
    for kill, status in kills:
        assert server.run("train_cifar", flags(SMALL, path), kill) == status, server.output
        assert not (path / "result.json").exists()
        if status > 0:
            last = "\ninterrupted; give the same command again to resume\n"
            assert server.output.endswith(last)
            assert {file.name for file in path.iterdir()} - {"history.csv"} == {
                "config.json",
                "logs",
                "checkpoint.npz",
            }
    before = (path / "checkpoint.npz").read_bytes()
    names = {file.name for file in path.iterdir()}
    # A full disk, on which no file may be larger than this.
    assert server.run("train_cifar", flags(SMALL, path), file_size=20 * 1024) == 1
    assert server.output.endswith(
        f"train_cifar.py: error: {path / 'checkpoint.npz'} could not be written: File too large. "
        "Free some space (or raise the limit) and give the same command again; what was written "
        "before is intact.\n"
    )
    assert "Traceback" not in server.output
    assert (path / "checkpoint.npz").read_bytes() == before
    assert {file.name for file in path.iterdir()} == names
    assert server.run("train_cifar", flags(SMALL, path)) == 0, server.output
    assert_same_run(path, whole)


COMPARISON = ["--num-trials", 12, "--num-samples", 8]


def comparison_of(out):
    assert {file.name for file in out.iterdir()} == {
        "comparison.json",
        "comparison.csv",
        "comparison.png",
        "per_layer.csv",
        "per_layer.png",
        "training.png",
    }
    return [(out / name).read_text() for name in ("comparison.json", "comparison.csv")]


@pytest.mark.slow
def test_a_killed_characterisation_ends_with_the_same_numbers(server, whole, tmp_path):
    assert server.run("characterize", [whole, *COMPARISON, "--out", tmp_path / "whole"]) == 0
    expected = comparison_of(tmp_path / "whole")
    generator = random.Random(1)
    kills = runs = 0
    while kills < 20:
        out = tmp_path / f"out{runs}"
        while True:
            kill = {"step": generator.randint(1, 12), "seconds": generator.uniform(0, 0.2)}
            if generator.random() < 0.4:
                kill = {"io": generator.randint(1, 20)}
            status = server.run("characterize", [whole, *COMPARISON, "--out", out], kill)
            assert status in (0, KILLED), (kill, server.output)
            if status == 0:
                break
            kills += 1
        assert comparison_of(out) == expected
        runs += 1
    print(f"characterize.py: {kills} kills in {runs} comparisons")


@pytest.mark.slow
def test_a_killed_experiment_ends_with_the_same_results(server, tmp_path):
    def run(out, kill=None):
        flags = ["schedule-ablation", "--preset", "smoke", "--seeds", 1, "--out", out]
        return server.run("infomcr_tf.experiments.__main__", flags, kill)

    def results(out):
        content = json.loads((out / "schedule-ablation" / "results.json").read_text())
        return content["runs"], content["failures"]

    assert run(tmp_path / "whole") == 0, server.output
    out = tmp_path / "killed"
    generator = random.Random(2)
    kills = 0
    while kills < 6:
        kill = {"step": generator.randint(1, 100), "seconds": generator.uniform(0, 0.05)}
        if kills % 2:
            kill = {"io": generator.randint(10, 60)}
        status = run(out, kill)
        assert status in (0, KILLED), (kill, server.output)
        if status == 0:
            break
        kills += 1
    assert run(out) == 0, server.output
    assert kills > 0
    assert results(out) == results(tmp_path / "whole")
    print(f"experiments: {kills} kills")
