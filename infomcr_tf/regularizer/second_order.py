"""Second derivatives through normalisation layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import tensorflow as tf


@contextmanager
def exact_moments() -> Iterator[None]:
    """Makes `tf.nn.moments`, which Keras' normalisation layers call, twice differentiable inside.

    TensorFlow's own puts the mean under stop_gradient in the variance. That leaves the first
    derivative as it is, since sum(x - mean) = 0, but drops a term from the second, so that a
    Hessian-vector product through BatchNorm, LayerNorm or GroupNorm comes out wrong. Acts on what
    is traced or executed inside, in all threads.
    """
    with mock.patch.object(tf.nn, "moments", _moments):
        yield


def _moments(
    x: tf.Tensor,
    axes: int | Sequence[int],
    shift: Any = None,  # noqa: ARG001  as in tf.nn.moments
    keepdims: bool = False,
    name: str | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.name_scope(name or "moments"):
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
        return (mean if keepdims else tf.squeeze(mean, axes)), variance
