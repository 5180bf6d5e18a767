"""Objects with traced graphs, kept with the model they were traced for.

They hold the model, and the model holds them: when the user drops the model, all of it goes.
"""

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import keras

from infomcr_tf.gradients.network import TRACING

_ATTRIBUTE = "_infomcr_tf_kept"
# How many settings, those used last, keep their graphs.
_MOST = 8

Kept = TypeVar("Kept")


class _Store:
    """What is kept with one model. Not a dict: Keras saves what it finds in those."""

    def __init__(self) -> None:
        self.objects: collections.OrderedDict[str, tuple[Any, Any]] = collections.OrderedDict()

    def __deepcopy__(self, memo: dict) -> "_Store":
        return _Store()


@contextlib.contextmanager
def kept_with(model: keras.Model, key: Any, make: Callable[[], Kept]) -> Iterator[Kept]:
    """A context that gives the object of this key kept with a model, made anew if that has changed.

    Args:
        model: the model. Its weights may change: a graph reads them when it runs.
        key: says what the object was made with; compared by its `repr`.
        make: makes the object.
    """
    if not isinstance(model, keras.Model):  # `make` will refuse it
        yield make()
        return
    store = model.__dict__.get(_ATTRIBUTE)
    if store is None:
        # Written past Keras' __setattr__, which would track it as a part of the model.
        store = model.__dict__.setdefault(_ATTRIBUTE, _Store())
    name = repr(key)
    with TRACING:
        before, kept = store.objects.pop(name, (None, None))
    if kept is None or before != _structure(model):
        kept = make()
    yield kept
    # Afterwards, since tracing may change what a layer notes of itself.
    with TRACING:
        store.objects[name] = (_structure(model), kept)
        while len(store.objects) > _MOST:
            store.objects.popitem(last=False)


def description(value: Any) -> Any:
    """What an object consists of: equal for objects that are made alike."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [description(part) for part in value]
    if isinstance(value, dict):
        return {key: description(part) for key, part in value.items()}
    if type(value).__module__.startswith("infomcr_tf."):
        return type(value).__name__, description(vars(value))
    return id(value)


def _structure(model: keras.Model) -> list[tuple]:
    """What a graph depends on besides the weights' values: layers, variables, plain attributes."""
    structure: list[tuple] = [tuple(id(v) for v in model.trainable_variables)]
    for layer in model._flatten_layers():
        plain = tuple(
            (name, value)
            for name, value in sorted(vars(layer).items())
            if not name.startswith("_") and isinstance(value, bool | int | float | str | tuple)
        )
        function = getattr(layer, "activation", None)
        policy = getattr(layer, "dtype_policy", None)
        structure.append((id(layer), id(function), getattr(policy, "name", None), repr(plain)))
        structure.append((layer.trainable, getattr(layer, "lora_enabled", None)))
    return structure
