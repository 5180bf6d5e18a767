"""Comparing runs: what the paper's figures and tables are made of."""

from infomcr_tf.experiments.comparison import ComparisonOptions, compare
from infomcr_tf.experiments.minimum import DataOptions, Minimum

__all__ = ["ComparisonOptions", "DataOptions", "Minimum", "compare"]
