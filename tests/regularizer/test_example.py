"""The minimal example runs, and its network learns."""

import os
import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_own_model(root_dir):
    done = subprocess.run(
        [sys.executable, "examples/own_model.py"],
        cwd=root_dir,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root_dir)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"test error: ([\d.]+)%", done.stdout)[1]) < 10
    assert re.search(r"beta: 10\.0", done.stdout)
