"""What the README shows is true of the repository."""

import re
import subprocess
import sys

import characterize
import train_cifar
from infomcr_tf.command_line.options import Parser


def test_examples_run(root_dir, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (root_dir / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 2
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"model.keras", "report.json"}


def test_links_lead_somewhere(root_dir):
    for file in (root_dir / "README.md", *sorted((root_dir / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", file.read_text()):
            assert (file.parent / target).exists(), f"{file}: {target}"


def test_commands_have_flags_that_exist(root_dir, monkeypatch):
    """Every command of the scripts in README and docs is one that their parsers accept."""
    parsed = []

    def parse_args(self, args=None, namespace=None):
        parsed.append(original(self, args, namespace))
        raise KeyboardInterrupt

    original = Parser.parse_args
    monkeypatch.setattr(Parser, "parse_args", parse_args)
    scripts = {"train_cifar": train_cifar.main, "characterize": characterize.main}
    for file in (root_dir / "README.md", *sorted((root_dir / "docs").rglob("*.md"))):
        text = file.read_text().replace("\\\n", " ")
        for variable, value in re.findall(r'^ *(\w+)="([^"]*)"$', text, re.MULTILINE):
            text = text.replace(f"${variable}", value)
        for name, flags in re.findall(r"python (train_cifar|characterize)\.py ([^\n#`|]*)", text):
            try:
                scripts[name](flags.replace("…", "").split())
            except KeyboardInterrupt:
                continue
    assert parsed
