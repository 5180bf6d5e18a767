"""Every program in examples/ runs, in a process and a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# What is installed with the extra `examples` alone.
NEEDS = {"keras_hub_text": "keras_hub", "tuner": "keras_tuner"}


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not list(tmp_path.iterdir())  # they leave nothing behind


def test_every_example_is_documented():
    page = (ROOT / "docs" / "examples.md").read_text()
    assert len(EXAMPLES) >= 6
    for path in EXAMPLES:
        assert f"`{path.name}`" in page, path.name
