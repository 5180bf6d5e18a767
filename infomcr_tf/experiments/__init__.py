"""The paper's experiments (section 7): what its figures and tables are made of."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infomcr_tf.comparison import ComparisonOptions, DataOptions, Minimum, compare

__all__ = ["ComparisonOptions", "DataOptions", "Minimum", "compare"]


def __getattr__(name: str) -> Any:
    # These names were here before they had a package of their own. They are imported when they are
    # first used: `python -m` imports this module before the command line starts TensorFlow quietly.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from infomcr_tf import comparison

    return getattr(comparison, name)
