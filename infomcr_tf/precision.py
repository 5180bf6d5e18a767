"""Keeping TensorFlow in full float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf


@contextmanager
def float32_precision(allow_tf32: bool = False) -> Iterator[None]:
    """Computes in full float32 inside, restoring TensorFlow's setting afterwards.

    TensorFloat-32, the default on Ampere and later GPUs, keeps 10 bits of the mantissa.

    Args:
        allow_tf32: Leaves TensorFlow's setting as it is.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(before and allow_tf32)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
