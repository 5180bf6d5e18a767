"""What the sources must not contain: ways to run what a file says, undeclared dependencies."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

FORBIDDEN_METHODS = {"extractall", "load_weights", "unpack_archive"}
# What a dependency is imported as, where that is another name.
IMPORTED_AS = {
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "tensorflow-datasets": "tensorflow_datasets",
}
# Needed by a dependency, or by what is printed at the end; imported by nothing here.
NOT_IMPORTED = {"importlib_resources", "tensorboard"}
OPTIONAL = {"ray", "absl"}  # the extra "ray"; absl is TensorFlow's own logging


def sources(root):
    folders = [root / name for name in ("infomcr_tf", "benchmarks", "examples")]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    return sorted([*files, *root.glob("*.py")])


def violations(tree):
    """What ruff's rules do not know: methods of any object, and the default of `np.load`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_METHODS:
            yield node.lineno, node.attr
        if isinstance(node, ast.Call):
            keywords = {word.arg: getattr(word.value, "value", "?") for word in node.keywords}
            loads = ast.unparse(node.func) in ("np.load", "numpy.load")
            if keywords.get("allow_pickle", "?" if loads else False) is not False:
                yield node.lineno, "np.load without allow_pickle=False"
            if keywords.get("safe_mode", True) is not True:
                yield node.lineno, "safe_mode is off"


def test_nothing_runs_what_a_file_says(root_dir):
    found = [
        f"{file.relative_to(root_dir)}:{line}: {what}"
        for file in sources(root_dir)
        for line, what in violations(ast.parse(file.read_text()))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "np.load(x, None, True)",
        "other.load(x, allow_pickle=True)",
        "keras.saving.load_model(x, safe_mode=False)",
        "model.load_weights(x)",
        "archive.extractall(x)",
        "shutil.unpack_archive(x)",
    ],
)
def test_the_search_finds(code):
    assert list(violations(ast.parse(code)))


def test_ruff_finds_the_rest(root_dir):
    """`make lint` refuses ways to run code that a file or a user's text may hold."""
    calls = [
        "import pickle",
        "from torch import load",
        "import marshal as m",
        "import yaml",
        "eval(x)",
        "exec(x)",
        "os.system(x)",
        "subprocess.run(x, shell=True)",
        "keras.models.load_model(x)",
        "keras.saving.load_model(x)",
        "keras.config.enable_unsafe_deserialization()",
    ]
    code = "import os, subprocess\nimport keras\n" + "\n".join(calls) + "\n"
    command = [sys.executable, "-m", "ruff", "check", "--output-format=concise"]
    place = root_dir / "infomcr_tf" / "stdin.py"
    done = subprocess.run(
        [*command, "--select=S,TID251", f"--stdin-filename={place}", "-"],
        input=code,
        capture_output=True,
        text=True,
        cwd=root_dir,
    )
    lines = {int(line.split(":")[1]) for line in done.stdout.splitlines() if line.count(":") > 2}
    assert lines >= set(range(3, 3 + len(calls))), done.stdout + done.stderr


def test_dependencies_are_those_that_are_imported(root_dir):
    """Each declared dependency is needed, and each package that is imported is declared."""
    setup = ast.parse((root_dir / "setup.py").read_text())
    declared = next(
        {ast.literal_eval(entry).split(">")[0] for entry in word.value.elts}
        for node in ast.walk(setup)
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "install_requires"
    )
    imported = set()
    for file in (root_dir / "infomcr_tf").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"infomcr_tf"} - OPTIONAL
    assert foreign == {IMPORTED_AS.get(name, name) for name in declared - NOT_IMPORTED}
    assert declared >= NOT_IMPORTED


def test_sources_are_found(root_dir):
    names = {file.relative_to(root_dir).as_posix() for file in sources(root_dir)}
    assert {"characterize.py", "infomcr_tf/storage.py", "benchmarks/step.py"} <= names
    assert all(Path(name).suffix == ".py" for name in names)
