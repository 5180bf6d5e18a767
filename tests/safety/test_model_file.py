"""A model file from a stranger executes nothing, reads nothing else, and writes nowhere."""

import io
import json
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from safety import hostile_files as files
from safety.hostile_files import function, layer

import characterize
import infomcr_tf
import train_cifar
from infomcr_tf.model_file import check_model_file, load_model

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
watching = []


def _watch(event, arguments):
    if watching and event in FORBIDDEN:
        watching[-1].append((event, arguments))


sys.addaudithook(_watch)  # for the rest of the process: there is no way to take one off


@pytest.fixture
def refused(tmp_path):
    """Checks that a file is refused in one line and that the attempt left no trace."""

    def check(path, message):
        before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        events = []
        watching.append(events)
        try:
            with pytest.raises(ValueError, match=message) as caught:
                load_model(path)
        finally:
            watching.pop()
        text = str(caught.value)
        assert "\n" not in text
        assert str(path) in text
        assert events == []
        after = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        assert after == before

    return check


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.keras"


# --- What must load ---


@keras.saving.register_keras_serializable(package="safety_tests")
class Doubled(keras.layers.Layer):
    """A class that the user of this process has registered."""

    def call(self, inputs):
        return 2 * inputs


def _own_class():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    x = Doubled()(keras.ops.concatenate([x, keras.ops.square(x)]))
    return keras.Model(inputs, keras.layers.Dense(10, activation=keras.activations.gelu)(x))


def _wrapped():
    inner = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    inner.add(keras.layers.Dense(10))
    model = infomcr_tf.FisherRegularizedModel(inner)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 5)), loss)
    return model


def _compiled():
    inner = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Dropout(0.5)], name="inner")
    model = keras.Sequential([keras.Input((8, 8, 1)), inner, keras.layers.Flatten()])
    model.add(keras.layers.Dense(10, activation="softmax", kernel_constraint="unit_norm"))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    inner.compile("sgd", keras.losses.mean_squared_error)
    return model


MODELS = {
    "resnet20": lambda: infomcr_tf.models.resnet20((8, 8, 1), weight_decay=1e-4),
    "registered class and bare operations": _own_class,
    "wrapped": _wrapped,
    "nested and compiled": _compiled,
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_honest_files_load(make, path):
    model = make()
    model.save(path)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    loaded = load_model(path)
    np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded.compiled == model.compiled  # with its loss alone


def test_recompressed_file_loads(path):
    content = files.entries(files.honest(path))
    files.write_archive(path, content.items(), zipfile.ZIP_DEFLATED)
    assert load_model(path).count_params() == 650


# --- Code and other files in the configuration ---


def _marshalled_lambda(path, canary):
    """What Keras itself writes for a Lambda layer around a Python function."""
    model = keras.Sequential([keras.Input((8, 8, 1))])
    model.add(keras.layers.Lambda(lambda x: (x, __import__("os").mkdir(canary))[0]))
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(10))
    model.save(path)


def test_marshalled_lambda_is_refused_and_never_runs(path, tmp_path, refused):
    canary = tmp_path / "canary"
    _marshalled_lambda(path, str(canary))
    canary.rmdir()  # made when the layer was built
    with zipfile.ZipFile(path) as archive:
        assert "__lambda__" in archive.read("config.json").decode()
    refused(path, "Lambda")
    # The file is a real attack: where safe mode is off, Keras runs it.
    keras.saving.load_model(path, safe_mode=False)
    assert canary.exists()


CONFIGS = {
    "Lambda of os.system": layer("Lambda", {"name": "x", "function": function("system", "os")}),
    "Lambda of a Keras function": layer(
        "Lambda", {"name": "x", "function": function("get_file", "keras.utils")}
    ),
    "Lambda under another module": layer(
        "Lambda",
        {"name": "x", "function": function("get_file", "keras.utils")},
        module="keras.src.layers.core.lambda_layer",
    ),
    "SavedModel": layer("TFSMLayer", {"name": "x", "filepath": "/no/such/folder"}),
    "pickled torch module": layer("TorchModuleWrapper", {"name": "x", "module": {}}),
    "vocabulary in another file": layer("StringLookup", {"name": "x", "vocabulary": "/etc/hosts"}),
    "vocabulary of integers": layer("IntegerLookup", {"name": "x", "vocabulary": "/etc/hosts"}),
    "eval": layer("eval", "__import__('os').system('true')", module="builtins"),
    "os.system": layer("system", "true", module="os"),
    "subprocess": layer("Popen", {"args": ["true"]}, module="subprocess"),
    "a class of another package": layer("PosixPath", {}, module="pathlib"),
    "a registered name that nobody has registered": layer(
        "Dense", {"units": 3}, module="stranger", registered_name="stranger>Dense"
    ),
    "no module": {"class_name": "Lambda", "config": {"function": "x"}},
    "a name that is no name": layer("__import__('os')", {}),
    "a number for a name": layer(7, {}),
    "lambda value": {"class_name": "__lambda__", "config": {"value": "eA=="}},
    "typespec": {"class_name": "__typespec__", "config": [], "module": "os", "spec_name": "system"},
    "hidden in a layer": layer(
        "TimeDistributed",
        {"name": "x", "layer": layer("Lambda", {"function": function("system", "os")})},
    ),
    "hidden in an initializer": layer(
        "Dense", {"name": "x", "units": 3, "kernel_initializer": function("system", "os")}
    ),
    "hidden in a nested compile_config": layer(
        "Sequential",
        {"name": "x", "layers": []},
        module="keras",
        compile_config={"loss": function("load_model", "keras.saving")},
    ),
}


@pytest.mark.parametrize("extra", CONFIGS.values(), ids=CONFIGS)
def test_configurations_that_name_more_than_layers_are_refused(extra, path, refused):
    refused(files.with_layer(path, extra), "its configuration names")


ACTIVATIONS = {
    "download": function("get_file", "keras.utils"),
    "writes a picture": function("plot_model", "keras.utils"),
    "writes a picture, dotted": function("utils.plot_model", "keras"),
    "loads another model": function("load_model", "keras.models"),
    "switches safe mode off": function("enable_unsafe_deserialization", "keras.config"),
    "switches safe mode off, as a class": layer(
        "enable_unsafe_deserialization", {}, module="keras.config"
    ),
    "a function for a class": layer("load_model", {}, module="keras.models"),
    "os.system": function("system", "os", "os>system"),
    "no name": layer("function", None, module="builtins"),
}


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_activations_that_are_no_activations_are_refused(activation, path, refused):
    refused(files.with_activation(path, activation), "its configuration names")


def test_deep_nesting_is_refused(path, refused):
    content = files.entries(files.honest(path))
    content[files.CONFIG] = b'{"a":' * 200_000 + b"1" + b"}" * 200_000
    refused(files.write_archive(path, content.items()), "not a Keras model file")


# --- The archive ---


def _replace(name, entry):
    def change(contents):
        contents[:] = [(entry if n == name else n, content) for n, content in contents]

    return change


ARCHIVES = {
    "path traversal": (lambda c: c.append(("../../evil.txt", b"x")), "entry '../../evil.txt'"),
    "traversal among the assets": (lambda c: c.append(("assets/../../e", b"x")), "assets/../../e"),
    "absolute name": (lambda c: c.append(("/tmp/evil.txt", b"x")), "entry '/tmp/evil.txt'"),
    "asset": (lambda c: c.append(("assets/words.txt", b"x")), "entry 'assets/words.txt'"),
    "symbolic link": (
        lambda c: c.append((files.link_entry("assets/x"), b"/etc/passwd")),
        "assets/x",
    ),
    "weights are a link": (
        _replace(files.WEIGHTS, files.link_entry(files.WEIGHTS)),
        "'model.weights.h5' is a link",
    ),
    "two configurations": (
        lambda c: c.append((files.CONFIG, b"{}")),
        "two entries of one name",
    ),
    "no configuration": (lambda c: c.pop(1), "no entry 'config.json'"),
    "no weights": (lambda c: c.pop(2), "no entry 'model.weights.h5'"),
    "nothing": (lambda c: c.clear(), "no entry 'config.json'"),
}


@pytest.mark.parametrize(("change", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_archives_that_hold_more_or_less_are_refused(change, message, path, refused):
    refused(files.with_archive(path, change), message)


def test_decompression_bomb_is_refused_unread(path, refused, monkeypatch):
    content = files.entries(files.honest(path))
    content[files.CONFIG] += b" " * 70 * 2**20
    files.write_archive(path, content.items(), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("it was unpacked"))
    refused(path, r"'config.json' would unpack to 73,4\d\d,\d\d\d bytes")
    path.unlink()
    files.honest(path)
    with pytest.raises(pytest.fail.Exception, match="it was unpacked"):
        load_model(path)


# --- The weights ---


def _external_link(group, name):
    del group[name]
    group[name] = h5py.ExternalLink("secret.h5", "secret")


def _soft_link(group, name):
    group.file["elsewhere"] = group[name][()]
    del group[name]
    group[name] = h5py.SoftLink("/elsewhere")


def _linked_group(group, name):
    group.file["other"] = h5py.ExternalLink("secret.h5", "/")


def _external_storage(group, name):
    shape = group[name].shape
    del group[name]
    group.create_dataset(name, shape=shape, dtype="f4", external=[("/etc/passwd", 0, 2560)])


def _virtual(group, name):
    shape = group[name].shape
    del group[name]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "secret", shape)
    group.create_virtual_dataset(name, layout)


def _shape_bomb(group, name):
    del group[name]
    group.create_dataset(name, shape=(2**20, 2**20), dtype="f4", chunks=(1, 2**10))


WEIGHTS = {
    "external link": (_external_link, "a link"),
    "soft link": (_soft_link, "a link"),
    "external link beside the weights": (_linked_group, "a link 'other'"),
    "external storage": (_external_storage, "lie in another file"),
    "virtual": (_virtual, "lie in another file"),
    "declared size": (_shape_bomb, "would unpack to 4,398,046,511,104 bytes"),
}


@pytest.mark.parametrize(("change", "message"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_lie_elsewhere_are_refused(change, message, path, refused):
    refused(files.with_weights(path, change), message)


# --- Files that are something else ---


def _pickle_in_npz():
    file = io.BytesIO()
    np.savez(file, weights=np.array([object()], dtype=object))
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", _pickle_in_npz()])
def test_other_files_are_refused(content, path, refused):
    path.write_bytes(content)
    refused(path, "is not a Keras model file|is refused")


def test_files_that_are_not_there_and_remote_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "loose.keras").symlink_to("nowhere")
    for name in ("folder.keras", "loose.keras", "hf://user/model.keras", "gs://b/m.keras", "/dev"):
        with pytest.raises(FileNotFoundError, match="There is no model file"):
            check_model_file(name)


# --- Through the script ---


def test_characterize_refuses_hostile_files_and_run_folders(tmp_path, capsys):
    hostile = files.with_layer(tmp_path / "x.keras", CONFIGS["SavedModel"])
    run = tmp_path / "run"
    flags = ["--dataset", "digits", "--model", "cnn", "--train-size", "20", "--batch-size", "20"]
    flags += ["--epochs", "1", "--regularize", "never", "--run-dir", str(run)]
    assert train_cifar.main(flags) == 0
    (run / "model.keras").write_bytes(hostile.read_bytes())
    capsys.readouterr()
    for arguments in ([hostile, "--dataset", "digits"], [run]):
        with pytest.raises(SystemExit) as caught:
            characterize.main([str(word) for word in [*arguments, "--out", tmp_path / "out"]])
        error = capsys.readouterr().err
        assert caught.value.code == 2
        assert error.count("\n") == 1
        assert "its configuration names" in error
    assert not list(tmp_path.rglob("comparison.json"))
