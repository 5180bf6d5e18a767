import json
import os
import subprocess
import sys

import pytest

from infomcr_tf.training import CifarConfig, TrainingRun


class Server:
    """See server.py."""

    def __init__(self, root, logs):
        self._process = subprocess.Popen(
            [sys.executable, str(root / "tests" / "reliability" / "server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        self._log = logs / "log"

    def start(self, script, flags, kill=None, **options):
        """Calls `script` with `flags` in a new process; returns its id. Then `wait`."""
        self._log.write_text("")
        request = {"script": script, "flags": [str(flag) for flag in flags], "kill": kill or {}}
        self._process.stdin.write(json.dumps(request | {"log": str(self._log)} | options) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())["pid"]

    def wait(self):
        """Returns the exit status."""
        return json.loads(self._process.stdout.readline())["status"]

    def run(self, *args, **options):
        """Both."""
        self.start(*args, **options)
        return self.wait()

    @property
    def output(self):
        """What the last process has printed."""
        return self._log.read_text()

    def close(self):
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="session")
def server(root_dir, tmp_path_factory):
    server = Server(root_dir, tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture
def make_run(request, small_cnn, tmp_path):
    """Makes a run with the test module's `SETTINGS`, but for the changes given."""
    settings = request.module.SETTINGS | {"run_dir": str(tmp_path / "run")}
    return lambda **changes: TrainingRun(CifarConfig(**(settings | changes)))
