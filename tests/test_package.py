"""The package as a whole: what importing it does, and which part may import which."""

import ast
import os
import re
import subprocess
import sys

import pytest

import infomcr_tf
from infomcr_tf import commands
from infomcr_tf.commands import COMMANDS

# Folders that a folder may import from, besides the leaves: single modules that everything may use.
LEAVES = {
    "arguments",
    "lazy",
    "registry",
    "storage",
    "model_file",
    "precision",
    "normalization_kernels",
    "pictures",
    "progress",
    "device_pool",
}
ALLOWED = {
    "command_line": set(),
    "data": set(),
    "models": set(),
    "regularizer": set(),
    "gradients": set(),
    "curvature": {"gradients"},
    "training": {"data", "models", "regularizer", "command_line"},
    "characterization": {"gradients", "regularizer", "curvature"},
    "comparison": {
        "characterization",
        "training",
        "data",
        "command_line",
        "regularizer",
        "gradients",
    },
    "experiments": {
        "commands",
        "command_line",
        "data",
        "models",
        "regularizer",
        "gradients",
        "curvature",
        "training",
        "characterization",
        "comparison",
    },
}


def _imported_folders(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "infomcr_tf" and len(parts) > 1:
                yield parts[1]


def test_imports_go_one_way(root_dir):
    folders = {path.parent.name for path in (root_dir / "infomcr_tf").glob("*/__init__.py")}
    assert folders == set(ALLOWED)
    for folder, allowed in ALLOWED.items():
        for file in sorted((root_dir / "infomcr_tf" / folder).rglob("*.py")):
            internal = set(_imported_folders(file)) - {folder}
            assert internal <= allowed | LEAVES, f"{file} imports {internal}"


def _public_definitions(tree):
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if isinstance(node, ast.Assign | ast.AnnAssign):
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_a_name_means_one_thing(root_dir):
    """One module, one object, and an object called like a module only where the module holds it."""
    modules, objects = {}, {}
    for path in sorted((root_dir / "infomcr_tf").rglob("*.py")):
        if path.name == "__main__.py":  # an entry point is called main
            continue
        stem = path.parent.name if path.name == "__init__.py" else path.stem
        modules.setdefault(stem, []).append(path)
        for name in _public_definitions(ast.parse(path.read_text())):
            if not name.startswith("_"):
                objects.setdefault(name, set()).add(path)
    assert len(modules) > 100
    assert len(objects) > 300
    assert {name: paths for name, paths in modules.items() if len(paths) > 1} == {}
    assert {name: paths for name, paths in objects.items() if len(paths) > 1} == {}
    both = modules.keys() & objects.keys()
    assert {name for name in both if objects[name] != set(modules[name])} == set()


def test_import_is_quiet_and_leaves_tensorflow_alone():
    code = "import sys, infomcr_tf; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_commands_are_listed_and_installed(root_dir):
    command = [sys.executable, "-m", "infomcr_tf"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert set(lines) == set(COMMANDS)
    assert all(len(line.split()) > 5 for line in lines.values())
    stated = re.findall(
        r'"([\w-]+) = infomcr_tf\.commands:(\w+)"', (root_dir / "setup.py").read_text()
    )
    assert {name: getattr(commands, function) for name, function in stated} == COMMANDS


@pytest.mark.parametrize("level", [None, pytest.param("3", marks=pytest.mark.slow)])
def test_commands_start_quietly(level):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    if level is not None:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level
    # TensorFlow has started when the flags are looked at.
    code = "import sys; from infomcr_tf.commands import COMMANDS; "
    code += "COMMANDS['infomcr-characterize'](['--nonsense', 'x'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("infomcr-characterize: error: unknown argument '--nonsense'")
    assert done.stderr.count("\n") == 1


def test_public_names_are_there():
    for name in infomcr_tf.__all__:
        assert getattr(infomcr_tf, name) is not None
    assert set(infomcr_tf.__all__) <= set(dir(infomcr_tf))
    assert not hasattr(infomcr_tf, "no_such_name")


def test_using_the_package_does_not_configure_tensorflow():
    code = (
        "import tensorflow as tf\n"
        "from infomcr_tf import FisherRegularizedModel, characterize, data, models\n"
        "from infomcr_tf import experiments, training\n"
        "tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0],\n"
        "    [tf.config.LogicalDeviceConfiguration()] * 3)\n"  # fails once TensorFlow has started
        "assert tf.config.threading.get_intra_op_parallelism_threads() == 0\n"
        "assert tf.config.optimizer.get_jit() == ''\n"
        "assert len(tf.config.list_logical_devices('CPU')) == 3\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
