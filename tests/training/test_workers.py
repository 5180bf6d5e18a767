"""Several machines: two processes on loopback, under TF_CONFIG."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import imagenet_files
import numpy as np
import pytest

from infomcr_tf.command_line.options import flag
from infomcr_tf.training import ImageNetConfig, RunFolder, TrainingRun
from infomcr_tf.training.strategy import distribution_strategy

SETTINGS = {
    "model": "cnn",
    "image_size": 20,
    "crop_size": 16,
    "validation_size": 3,
    "batch_size": 8,
    "epochs": 4,
    "num_sub_batches": 4,
    "seed": 1,
    # The penalty acts in the second half of the epochs. Its finite difference jumps where rounding
    # moves a ReLU over its kink, and such jumps accumulate: hence few and short steps.
    "alpha": 1e-3,
    "beta": 1.0,
    "learning_rate": 1e-4,
    "target_loss": 1e-6,  # out of reach; after every epoch the workers find that out together
}
SECONDS = 200  # twenty are enough, but not on a busy machine


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Cluster:
    """Two processes of train_imagenet.py."""

    def __init__(self, root_dir, settings, logs):
        flags = [f"{flag(name)}={value}" for name, value in settings.items()]
        cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
        self.logs = [logs / f"worker{i}.log" for i in range(2)]
        self.processes = []
        for i, log in enumerate(self.logs):
            config = {"cluster": cluster, "task": {"type": "worker", "index": i}}
            environment = os.environ | {"TF_CONFIG": json.dumps(config)}
            command = [sys.executable, str(root_dir / "train_imagenet.py"), *flags]
            with log.open("w") as file:
                self.processes.append(
                    subprocess.Popen(
                        command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=logs
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def wait(self):
        return [process.wait(SECONDS) for process in self.processes]

    def output(self, i):
        return self.logs[i].read_text()


def rows_of(path):
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def settings_of(tmp_path, **changes):
    """The settings of one process and those of two, which differ in where they write."""
    imagenet_files.write_folder(tmp_path / "images", per_class=9)
    settings = SETTINGS | {"image_folder": str(tmp_path / "images")} | changes
    return [
        settings | {"run_dir": str(tmp_path / name), "cache_dir": str(tmp_path / f"cache-{name}")}
        for name in ("one", "two")
    ]


def test_two_workers_end_as_one_process(root_dir, tmp_path):
    one, two = settings_of(tmp_path, epochs=2, regularize="never")
    with Cluster(root_dir, two, tmp_path) as cluster:
        one = TrainingRun(ImageNetConfig(**one))
        result = one.run(verbose=0)
        assert cluster.wait() == [0, 0], cluster.output(0)
        assert "run folder" in cluster.output(0)
        assert "run folder" not in cluster.output(1)  # the chief alone speaks
    assert_same_run(RunFolder.load(two["run_dir"]), one.folder, result)


@pytest.mark.slow
def test_two_workers_one_of_them_killed_end_as_one_process(root_dir, tmp_path):
    one, two = settings_of(tmp_path)
    one = TrainingRun(ImageNetConfig(**one))
    result = one.run(verbose=0)
    history = tmp_path / "two" / "history.csv"
    with Cluster(root_dir, two, tmp_path) as cluster:
        deadline = time.monotonic() + SECONDS
        while len(rows_of(history)) < 1:
            assert time.monotonic() < deadline, cluster.output(0)
            assert cluster.processes[0].poll() is None, cluster.output(0)
            time.sleep(0.02)
        cluster.processes[1].send_signal(signal.SIGKILL)
        cluster.processes[1].wait()
        done = len(rows_of(history))
        time.sleep(1)  # some epochs long
        # The chief cannot go on alone. It gives up when heartbeats have been missing for long.
        assert len(rows_of(history)) <= done + 1
        assert not (tmp_path / "two" / "result.json").exists()
    kept = rows_of(history)
    assert len(kept) < SETTINGS["epochs"]
    with Cluster(root_dir, two, tmp_path) as cluster:
        assert cluster.wait() == [0, 0], cluster.output(0)
        assert f"Epoch {len(kept) + 1}/" in cluster.output(0)
        assert f"Epoch {len(kept)}/" not in cluster.output(0)
    assert rows_of(history)[: len(kept)] == kept
    assert_same_run(RunFolder.load(tmp_path / "two"), one.folder, result)


def assert_same_run(two, one, result):
    names = {path.name for path in two.path.iterdir()}
    assert names == {"config.json", "history.csv", "logs", "model.keras", "result.json"}
    both = zip(two.load_model().get_weights(), one.load_model().get_weights(), strict=True)
    for two_weights, one_weights in both:
        scale = np.abs(one_weights).max()
        np.testing.assert_allclose(two_weights, one_weights, rtol=1e-5, atol=1e-5 * scale)
    compare_history(rows_of(two.history_path), rows_of(one.history_path))
    for part, values in two.read_result().items():
        if isinstance(values, dict):
            assert values == pytest.approx(result[part], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_worker_whose_peer_is_killed_ends_with_one_line(root_dir, tmp_path, killed):
    imagenet_files.write_folder(tmp_path / "images", per_class=9)
    settings = SETTINGS | {
        "image_folder": str(tmp_path / "images"),
        "run_dir": str(tmp_path / "run"),
        "cache_dir": str(tmp_path / "cache"),
        "epochs": 100_000,
        "regularize": "never",
    }
    history = tmp_path / "run" / "history.csv"
    with Cluster(root_dir, settings, tmp_path) as cluster:
        deadline = time.monotonic() + SECONDS
        while len(rows_of(history)) < 1:
            assert time.monotonic() < deadline, cluster.output(0)
            time.sleep(0.02)
        cluster.processes[killed].kill()
        # TensorFlow looks every 30 s whether its peers live, and asks three times for 10 s.
        status = cluster.processes[1 - killed].wait(SECONDS)
        output = cluster.output(1 - killed)
        assert status == 1, output
        assert "train_imagenet.py: error: another worker was lost" in output
        assert "Traceback" not in output


def compare_history(two, one):
    assert len(two) == len(one) >= 2
    for two_row, one_row in zip(two, one, strict=True):
        for name, value in two_row.items():
            # The penalty is a difference of losses: eps / (alpha ||g||^2) of relative rounding.
            rel = 1e-3 if name == "fisher_penalty" else 1e-5
            assert float(value) == pytest.approx(float(one_row[name]), rel=rel), name


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_unsuitable_tf_config_is_refused(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=f"TF_CONFIG.*Received: {re.escape(text)}"):
        distribution_strategy()


def test_virtual_devices_are_refused_under_tf_config(monkeypatch):
    config = {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(ValueError, match=r"--virtual-devices.*TF_CONFIG"):
        distribution_strategy(virtual_devices=2)
