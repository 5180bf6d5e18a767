"""Several trained minima side by side: their metrics as a table and as pictures."""

from infomcr_tf.comparison.compared import Compared, Comparison, compare
from infomcr_tf.comparison.comparison_options import ComparisonOptions
from infomcr_tf.comparison.minimum import DataOptions, Minimum

__all__ = ["Compared", "Comparison", "ComparisonOptions", "DataOptions", "Minimum", "compare"]
