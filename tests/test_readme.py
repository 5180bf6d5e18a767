"""What the README shows is true of the repository."""

import re
import subprocess
import sys

import characterize
import train_cifar
import train_imagenet
from infomcr_tf.command_line.options import Parser
from infomcr_tf.commands import COMMANDS

SCRIPTS = (train_cifar, train_imagenet, characterize)


def test_examples_run(root_dir, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (root_dir / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 2
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"model.keras", "report.json"}


def test_links_are_absolute_and_lead_to_files(root_dir):
    """A registry shows the README without the repository around it; docs/ is checked by Sphinx."""
    text = (root_dir / "README.md").read_text()
    targets = re.findall(r"\]\(([^)]+)\)", text)
    url = re.search(r'^URL = "https://github.com/(.*)"', (root_dir / "setup.py").read_text(), re.M)
    pages = f"https://github.com/{url[1]}/blob/main/"
    pictures = f"https://raw.githubusercontent.com/{url[1]}/main/"
    assert len(targets) > 10
    for target in targets:
        assert target.startswith((pages, pictures)), target
        path = target.removeprefix(pages).removeprefix(pictures)
        assert (root_dir / path).is_file(), target
    assert all(target.startswith(pictures) for target in re.findall(r"!\[[^]]*\]\(([^)]+)", text))


def test_commands_have_flags_that_exist(root_dir, monkeypatch):
    """Every command in README, docs and the Makefile's demo is one that its parser accepts."""
    parsed, found = [], set()

    def parse_args(self, args=None, namespace=None):
        parsed.append(original(self, args, namespace))
        raise KeyboardInterrupt

    original = Parser.parse_args
    monkeypatch.setattr(Parser, "parse_args", parse_args)
    scripts = {f"{module.__name__}.py": module.main for module in SCRIPTS} | COMMANDS
    scripts["-m infomcr_tf.experiments"] = COMMANDS["infomcr-experiments"]
    names = "|".join(map(re.escape, scripts))
    pages = [root_dir / "README.md", *sorted((root_dir / "docs").rglob("*.md"))]
    texts = [page.read_text() for page in pages]
    makefile = (root_dir / "Makefile").read_text().replace("\n\t$(PY) ", "\n    python ")
    texts.append(re.sub(r"\$\((\w+)\)", r"$\1", makefile))
    for text in texts:
        text = text.replace("\\\n", " ")
        for variable, value in re.findall(r'^ *(\w+) ?\??= ?"?([^"\n]*)"?$', text, re.MULTILINE):
            text = text.replace(f"${variable}", value)
        for name, flags in re.findall(rf"^    (?:python )?({names}) ([^\n#`|]*)", text, re.M):
            found.add(name)
            try:
                scripts[name](flags.replace("…", "").split())
            except KeyboardInterrupt:
                continue
    assert len(parsed) > 20
    assert found >= {"train_cifar.py", "train_imagenet.py", "characterize.py"}
