"""The paper's experiments (section 7): what its figures and tables are made of."""

from typing import TYPE_CHECKING

from infomcr_tf.lazy import lazy_names

if TYPE_CHECKING:
    from infomcr_tf.comparison import ComparisonOptions, DataOptions, Minimum, compare

__all__ = ["ComparisonOptions", "DataOptions", "Minimum", "compare"]

# These names were here before they had a package of their own.
__getattr__ = lazy_names(__name__, {name: f"infomcr_tf.comparison:{name}" for name in __all__})
