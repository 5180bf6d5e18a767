"""What the sources may not contain: ways to run what a file says, undeclared dependencies."""

import ast
import sys
from pathlib import Path

import pytest

FORBIDDEN_MODULES = {
    "cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve",
    "torch", "yaml",
}  # fmt: skip
FORBIDDEN_CALLS = {"__import__", "compile", "eval", "exec"}
FORBIDDEN_ATTRIBUTES = {
    "enable_unsafe_deserialization", "extractall", "load_weights", "popen", "system",
    "unpack_archive", "unsafe_load",
}  # fmt: skip
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


def violations(tree, may_load=False):
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_ATTRIBUTES:
            yield node.lineno, node.attr
        elif isinstance(node, ast.Call):
            yield from _calls(node, may_load)
        for name in names:
            if name.split(".")[0] in FORBIDDEN_MODULES:
                yield node.lineno, name


def _calls(node, may_load):
    keywords = {word.arg: getattr(word.value, "value", "?") for word in node.keywords}
    name = ast.unparse(node.func)
    if name in FORBIDDEN_CALLS:
        yield node.lineno, name
    if name in ("np.load", "numpy.load") and keywords.get("allow_pickle") is not False:
        yield node.lineno, "np.load without allow_pickle=False"
    loads = name.startswith("keras.") and name.endswith(".load_model")
    if loads and not (may_load and keywords.get("safe_mode", True) is True):
        yield node.lineno, "a model loaded past infomcr_tf.model_file"
    if keywords.get("shell") or keywords.get("allow_pickle") or keywords.get("safe_mode") is False:
        yield node.lineno, ast.unparse(node)[:60]


def test_nothing_runs_what_a_file_says(root_dir):
    found = []
    for file in sources(root_dir):
        # The examples load what they have just saved.
        may_load = file.name == "model_file.py" or file.parent.name == "examples"
        for line, what in violations(ast.parse(file.read_text()), may_load):
            # That benchmark compares with torch, whose loading of files is what is forbidden.
            if file.name == "peers.py" and what.split(".")[0] == "torch":
                continue
            found.append(f"{file.relative_to(root_dir)}:{line}: {what}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from torch import load", "import marshal as m", "eval(x)", "exec(x)",
        "os.system(x)", "archive.extractall(x)", "np.load(x)", "np.load(x, allow_pickle=True)",
        "np.load(x, None, True)", "keras.models.load_model(x)", "yaml.unsafe_load(x)",
        "subprocess.run(x, shell=True)", "keras.config.enable_unsafe_deserialization()",
        "keras.saving.load_model(x, safe_mode=False)", "__import__(x)", "import yaml",
    ],
)  # fmt: skip
def test_the_search_finds(code):
    assert list(violations(ast.parse(code)))


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
