"""A full disk where test_killed_runs.py does not look: the trained model, and a disk of its own."""

import errno
import shutil
import signal
import subprocess

import pytest

from infomcr_tf.storage import DiskFullError, replacing, write_json

SETTINGS = [
    "--dataset=digits",
    "--model=cnn",
    "--train-size=30",
    "--batch-size=10",
    "--epochs=2",
    "--regularize=never",
    "--save-every=1",
]
KILOBYTES = 20  # enough for config.json


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_a_model_that_does_not_fit(server, tmp_path):
    flags = [*SETTINGS, f"--run-dir={tmp_path / 'run'}"]
    assert server.run("train_cifar", flags) == 0, server.output
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    shutil.rmtree(tmp_path / "run")
    # In the last step: all epochs are done, and the model is not written.
    kill = {"step": 6, "seconds": 0.0, "signal": signal.SIGTERM}
    assert server.run("train_cifar", flags, kill) == 143, server.output
    assert "model.keras" not in names(tmp_path / "run")
    assert server.run("train_cifar", flags, file_size=1024 * KILOBYTES) == 1
    model = tmp_path / "run" / "model.keras"
    assert f"error: {model} could not be written: File too large. Free some" in server.output
    assert "Traceback" not in server.output
    assert names(tmp_path / "run") == {"config.json", "history.csv", "logs", "checkpoint.npz"}
    assert server.run("train_cifar", flags) == 0
    for name in ("history.csv", "result.json"):
        assert (tmp_path / "run" / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_without_space(small_disk):
    write_json(small_disk / "a.json", {"kept": True})
    (small_disk / "filler").write_bytes(bytes(2**20 - 2**16))
    with pytest.raises(DiskFullError, match=r"a\.json could not be written: No space left"):
        write_json(small_disk / "a.json", {"numbers": list(range(10**5))})
    assert names(small_disk) == {"a.json", "filler"}
    assert "kept" in (small_disk / "a.json").read_text()


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError), replacing(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no")
