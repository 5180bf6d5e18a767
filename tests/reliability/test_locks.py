"""One process in a folder at a time; a dead one holds nothing."""

import errno
import fcntl
import os
import signal
import socket
import time

import pytest

import train_cifar
from infomcr_tf.storage import locked, replacing
from infomcr_tf.training import CifarConfig, TrainingRun

LONG = [
    "--dataset=digits",
    "--model=cnn",
    "--train-size=20",
    "--batch-size=10",
    "--epochs=100000",
    "--regularize=never",
    "--save-every=1",
]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_second_training_is_refused_until_the_first_is_dead(server, tmp_path, capsys):
    flags = [*LONG, f"--run-dir={tmp_path / 'run'}"]
    child = server.start("train_cifar", flags)
    deadline = time.monotonic() + 300
    while not (tmp_path / "run" / "checkpoint.npz").exists():
        assert time.monotonic() < deadline, server.output
        time.sleep(0.05)
    with pytest.raises(SystemExit) as caught:
        train_cifar.main(flags)
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        f"train_cifar.py: error: {tmp_path / 'run'} is in use by process {child} on "
        f"{socket.gethostname()}. Wait for it, stop it, or choose another folder.\n"
    )
    os.kill(child, signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    config = CifarConfig(
        dataset="digits",
        model="cnn",
        train_size=20,
        batch_size=10,
        epochs=100_000,
        regularize="never",
        run_dir=str(tmp_path / "run"),
    )
    TrainingRun(config)
    assert ".lock" not in names(tmp_path / "run")


def test_lock_and_leftovers_are_no_content(tmp_path):
    """What a process leaves that dies at its very start must not bar the way to the next one."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").write_text("process 1 on nowhere")
    (folder / ".1.tmp.config.json").write_text("{")
    run = TrainingRun(CifarConfig(dataset="digits", model="cnn", run_dir=str(folder)))
    assert names(run.folder.path) == ["config.json"]


def test_the_lock_ends_with_the_block(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "new"):
            match = rf"in use by process {os.getpid()} on"
            with pytest.raises(BlockingIOError, match=match), locked(tmp_path / "new"):
                pass
            assert names(tmp_path / "new") == [".lock"]
        assert names(tmp_path / "new") == []


def test_a_lock_that_was_removed_meanwhile_is_not_trusted(tmp_path, monkeypatch):
    """Between opening and locking the file its holder may remove it, and a third lock a new one."""
    flock, calls = fcntl.flock, []

    def slow(*args):
        calls.append(args)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        flock(*args)

    monkeypatch.setattr(fcntl, "flock", slow)
    with locked(tmp_path):
        assert len(calls) == 2
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError), locked(folder):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_where_there_are_no_locks_there_is_a_warning(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match="cannot be locked.*No locks available"), locked(tmp_path):
        pass


def test_leftovers_of_dead_processes_are_removed(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        kept = tmp_path / temporary.name.replace(str(os.getpid()), "1")
        kept.write_text("of another process, killed")
        raise ZeroDivisionError
    (tmp_path / ".hidden").write_text("mine")
    with locked(tmp_path):
        pass
    assert names(tmp_path) == [".hidden"]
