"""Several trained minima side by side: their metrics as a table and as pictures."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infomcr_tf.comparison.comparison import ComparisonOptions, compare
    from infomcr_tf.comparison.minimum import DataOptions, Minimum

__all__ = ["ComparisonOptions", "DataOptions", "Minimum", "compare"]

_MODULES = {
    "ComparisonOptions": "comparison",
    "DataOptions": "minimum",
    "Minimum": "minimum",
    "compare": "comparison",
}


def __getattr__(name: str) -> Any:
    # A name is imported when it is first used, so that a command line can start TensorFlow quietly.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
