"""Makes `.keras` files that an attacker might send, from a small honest one."""

import io
import json
import stat
import warnings
import zipfile

import h5py
import keras

CONFIG, WEIGHTS = "config.json", "model.weights.h5"


def honest(path):
    """A small network for 8 x 8 digits."""
    keras.utils.set_random_seed(0)
    keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(10, name="logits"),
        ]
    ).save(path)
    return path


def entries(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_archive(path, contents, compression=zipfile.ZIP_STORED):
    """`contents`: (name or ZipInfo, bytes) pairs, so that a name may come twice."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of a name that comes twice
        for name, content in contents:
            archive.writestr(name, content, compress_type=compression)
    return path


def with_config(path, change):
    """An honest file whose configuration `change(config)` has edited in place."""
    contents = entries(honest(path))
    config = json.loads(contents[CONFIG])
    change(config)
    contents[CONFIG] = json.dumps(config).encode()
    return write_archive(path, contents.items())


def with_layer(path, layer):
    """An honest file with one more layer, given as its configuration, before the last."""

    def change(config):
        config["config"]["layers"].insert(2, layer)

    return with_config(path, change)


def with_activation(path, activation):
    """An honest file whose last layer calls `activation` on its outputs."""

    def change(config):
        config["config"]["layers"][-1]["config"]["activation"] = activation

    return with_config(path, change)


def with_archive(path, change):
    """An honest file whose list of (name, content) `change(list)` has edited in place."""
    contents = list(entries(honest(path)).items())
    change(contents)
    return write_archive(path, contents)


def link_entry(name):
    """A zip entry that unpacks to a symbolic link."""
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def kernel(file):
    """The group and name of the first matrix in a weights file."""
    found = []
    file.visititems(
        lambda name, item: (
            found.append(name) if isinstance(item, h5py.Dataset) and item.ndim == 2 else None
        )
    )
    group, name = found[0].rsplit("/", 1)
    return file[group], name


def with_weights(path, change):
    """An honest file whose weights `change(group, name of the kernel)` has edited in place."""
    contents = entries(honest(path))
    file = io.BytesIO(contents[WEIGHTS])
    with h5py.File(file, "r+") as weights:
        change(*kernel(weights))
    contents[WEIGHTS] = file.getvalue()
    return write_archive(path, contents.items())


def layer(class_name, config, module="keras.layers", **others):
    """A serialized object."""
    return {
        "module": module,
        "class_name": class_name,
        "config": config,
        "registered_name": None,
        **others,
    }


def function(name, module, registered_name=None):
    """A serialized reference to a function."""
    return layer("function", name, module, registered_name=registered_name or name)
