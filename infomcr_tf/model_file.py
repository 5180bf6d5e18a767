"""Loading a `.keras` file of unknown origin: it may hold numbers and Keras' layers, nothing else.

Keras' safe mode refuses pickled Python code. What else a file could do depends on Keras' version
(a layer that reads another file, a weights file that is a link to one, an archive that unpacks to
the size of the disk), so it is refused here, before Keras sees the file.
"""

import json
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_ENTRIES = {"metadata.json", _CONFIG, _WEIGHTS}
# Keras stores without compression. What is smaller than this harms nobody, however it is packed.
_HARMLESS_BYTES = 64 * 2**20
_LARGEST_EXPANSION = 20

# Where Keras looks up what a model is made of; its other modules reach files and the network.
_MODULES = (
    "keras",
    "keras.activations",
    "keras.constraints",
    "keras.dtype_policies",
    "keras.initializers",
    "keras.layers",
    "keras.losses",
    "keras.metrics",
    "keras.models",
    "keras.optimizers",
    "keras.optimizers.schedules",
    "keras.quantizers",
    "keras.random",
    "keras.regularizers",
)
_INTERNAL_MODULES = ("keras.src.layers.", "keras.src.models.", "keras.src.ops.")
_FUNCTION_MODULES = ("builtins", "keras.activations", "keras.losses", "keras.metrics")
_VALUES = ("__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__")
# Layers that hold code, or read a file that their configuration names.
_REFUSED = (
    "FlaxLayer",
    "IntegerLookup",
    "JaxLayer",
    "Lambda",
    "StringLookup",
    "TFSMLayer",
    "TextVectorization",
    "TorchModuleWrapper",
)


def load_model(path: str | os.PathLike) -> keras.Model:
    """Loads a `.keras` file in Keras' safe mode, after `check_model_file`, with its loss alone.

    A compiled model is compiled again with the same loss, and without its optimizer and metrics.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a model that can be loaded safely.
    """
    path = Path(path)
    check_model_file(path)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        with zipfile.ZipFile(path) as archive:
            compiled = json.loads(archive.read(_CONFIG)).get("compile_config") or {}
        if compiled.get("loss") is not None:
            loss = keras.saving.deserialize_keras_object(compiled["loss"], safe_mode=True)
            model.compile(loss=loss, loss_weights=compiled.get("loss_weights"))
        return model
    except Exception as error:  # Keras raises many kinds on a damaged file
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} is not a Keras model file that can be loaded: {reason[:300]}"
        ) from error


def check_model_file(path: str | os.PathLike) -> None:
    """Refuses a `.keras` file that is anything but layers of Keras with their weights.

    - The archive has the three entries that Keras writes, each an ordinary file that is not much
      larger unpacked than packed. (Layers with further files, such as vocabularies, are refused.)
    - The configuration names layers and other parts of Keras that hold no code and read no file,
      or classes that this process has registered with `register_keras_serializable`.
    - The weights hold their data themselves: no links, no external or virtual data sets, none
      declared much larger than what is stored.

    What is left to a stranger is a damaged file or a network that is too large for the machine.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            problems = [*_archive_problems(archive)]
            if not problems:
                problems = [*_config_problems(json.loads(archive.read(_CONFIG)))]
            if not problems:
                with archive.open(_WEIGHTS) as file, h5py.File(file, "r") as weights:
                    problems = [*_weights_problems(weights)]
    except Exception as error:  # zipfile, json and h5py raise many kinds on a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} is not a Keras model file that can be loaded: {reason[:300]}"
        ) from error
    if problems:
        raise ValueError(
            f"{path} is refused, for it is not only layers of Keras and their weights: "
            f"{problems[0]}. If you trust it, load it with `keras.saving.load_model` yourself and "
            "pass the model on."
        )


def _archive_problems(archive: zipfile.ZipFile) -> Iterator[str]:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    for entry in entries:
        name = entry.filename[:80]
        if entry.filename not in _ENTRIES:
            yield f"the archive has an entry {name!r}"
        if stat.S_ISLNK(entry.external_attr >> 16):
            yield f"the archive's entry {name!r} is a link"
        if _expands(entry.file_size, entry.compress_size):
            yield f"{name!r} would unpack to {entry.file_size:,} bytes from {entry.compress_size:,}"
    if len(set(names)) < len(names):
        yield "the archive has two entries of one name"
    for name in (_CONFIG, _WEIGHTS):
        if name not in names:
            yield f"the archive has no entry {name!r}"


def _config_problems(config: Any) -> Iterator[str]:
    """What is not allowed in a serialized object and the objects in it, at any depth."""
    stack = [config]  # no recursion: the depth is the file's choice
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += value
        elif isinstance(value, dict):
            stack += value.values()
            if "class_name" in value and not _is_allowed(value):
                about = {key: value.get(key) for key in ("module", "class_name", "registered_name")}
                if value["class_name"] == "function":
                    about["function"] = value.get("config")
                yield f"its configuration names {str(about)[:200]}"


def _is_allowed(value: dict[str, Any]) -> bool:
    name, module = value["class_name"], value.get("module")
    if name in _VALUES:
        return True
    is_function = name == "function"
    if is_function:
        name = value.get("config")
    # A dotted name would leave the module that stands beside it.
    if not isinstance(name, str) or not name.isidentifier() or name in _REFUSED:
        return False
    if _is_registered(name if is_function else value.get("registered_name") or name):
        return True
    if not isinstance(module, str):
        return False
    if is_function:
        return module in _FUNCTION_MODULES
    # A lower-case name is a function's, which would be called when the layer around it is.
    return name[0].isupper() and (module in _MODULES or module.startswith(_INTERNAL_MODULES))


def _is_registered(name: Any) -> bool:
    return isinstance(name, str) and keras.saving.get_registered_object(name) is not None


def _weights_problems(weights: h5py.File) -> Iterator[str]:
    found: list[str] = []

    def look_at_link(name: str, link: Any) -> None:
        if not isinstance(link, h5py.HardLink):
            found.append(f"the weights file has a link {name[:80]!r} to elsewhere")

    def look_at(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if item.external or item.is_virtual:
            found.append(f"the weights {name[:80]!r} lie in another file")
        elif _expands(item.nbytes, item.id.get_storage_size()):
            found.append(f"the weights {name[:80]!r} would unpack to {item.nbytes:,} bytes")

    weights.visititems_links(look_at_link)
    weights.visititems(look_at)
    yield from found


def _expands(unpacked: int, packed: int) -> bool:
    return unpacked > _HARMLESS_BYTES and unpacked > _LARGEST_EXPANSION * packed
