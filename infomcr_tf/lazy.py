"""Public names that are imported when they are first used: importing TensorFlow takes seconds."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(module: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module whose names lie elsewhere.

    Args:
        module: its `__name__`.
        places: name -> "package.module:name", or "package.module" for a module itself. A name may
            stand here under which something was public before it was renamed.
    """

    def import_name(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        path, _, attribute = places[name].partition(":")
        found = importlib.import_module(path)
        return getattr(found, attribute) if attribute else found

    return import_name
