"""A full disk: one line, exit status 1, and what was written before is intact."""

import errno
import os
import shutil
import subprocess

import pytest

from infomcr_tf.storage import DiskFullError, replacing, write_json

SETTINGS = [
    "--dataset=digits", "--model=cnn", "--train-size=30", "--batch-size=10", "--epochs=2",
    "--regularize=never", "--save-every=1",
]  # fmt: skip
KILOBYTES = 20  # enough for config.json


def names(folder):
    return {path.name for path in folder.iterdir()}


def assert_one_line(output, path, reason):
    [line] = [line for line in output.splitlines() if "train_cifar.py: error:" in line]
    expected = f"train_cifar.py: error: {path} could not be written: {reason}. Free some space"
    assert line.startswith(expected)
    assert "give the same command again" in line
    assert "Traceback" not in output


def test_a_run_stops_with_its_last_checkpoint_and_goes_on_later(server, tmp_path):
    flags = [*SETTINGS, f"--run-dir={tmp_path / 'run'}"]
    checkpoint = tmp_path / "run" / "checkpoint.npz"
    assert server.run("train_cifar", flags, {"step": 6, "seconds": 0.0}) == -9, server.output
    before = checkpoint.read_bytes()
    assert server.run("train_cifar", flags, file_size=1024 * KILOBYTES) == 1
    assert_one_line(server.output, checkpoint, os.strerror(errno.EFBIG))
    assert checkpoint.read_bytes() == before
    assert names(tmp_path / "run") == {"config.json", "history.csv", "logs", "checkpoint.npz"}
    assert server.run("train_cifar", flags) == 0, server.output
    assert "result.json" in names(tmp_path / "run")


@pytest.mark.slow
def test_a_model_that_does_not_fit(server, tmp_path):
    flags = [*SETTINGS, f"--run-dir={tmp_path / 'run'}"]
    assert server.run("train_cifar", flags) == 0, server.output
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    # As if it had been killed after the last epoch.
    checkpoints = []
    for io in range(40, 0, -1):
        shutil.rmtree(tmp_path / "run")
        server.run("train_cifar", flags, {"io": io})
        if names(tmp_path / "run") >= {"checkpoint.npz", "model.keras"}:
            checkpoints.append(io)
            break
    assert checkpoints
    (tmp_path / "run" / "model.keras").unlink()
    (tmp_path / "run" / "result.json").unlink(missing_ok=True)
    assert server.run("train_cifar", flags, file_size=1024 * KILOBYTES) == 1
    assert_one_line(server.output, tmp_path / "run" / "model.keras", os.strerror(errno.EFBIG))
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
