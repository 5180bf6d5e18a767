"""Several trained minima side by side: their metrics as a table and as pictures."""

from typing import TYPE_CHECKING

from infomcr_tf.lazy import lazy_names

if TYPE_CHECKING:
    from infomcr_tf.comparison.comparison import ComparisonOptions, compare
    from infomcr_tf.comparison.minimum import DataOptions, Minimum

__all__ = ["ComparisonOptions", "DataOptions", "Minimum", "compare"]

# A command line can start TensorFlow quietly, after it has imported this.
__getattr__ = lazy_names(
    __name__,
    {
        "ComparisonOptions": f"{__name__}.comparison:ComparisonOptions",
        "DataOptions": f"{__name__}.minimum:DataOptions",
        "Minimum": f"{__name__}.minimum:Minimum",
        "compare": f"{__name__}.comparison:compare",
    },
)
