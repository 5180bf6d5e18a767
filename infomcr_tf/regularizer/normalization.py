"""Batch normalisation in fewer passes, and twice differentiable, while a loss is traced."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

_FUSED_EPSILON = 1e-5  # below it cuDNN's kernel refuses

_lock = threading.Lock()
_users = 0
_originals: tuple[Callable[..., Any], Callable[..., Any]] | None = None


@contextmanager
def fused_normalization() -> Iterator[None]:
    """Replaces two functions that Keras' normalisation layers call, while inside.

    `tf.nn.moments` by one with a gradient in closed form. TensorFlow's own puts the mean under
    stop_gradient in the variance: that leaves the first derivative as it is, since
    sum(x - mean) = 0, but drops a term from the second, so that Hessian-vector products through
    BatchNorm, LayerNorm or GroupNorm come out wrong.

    `tf.nn.batch_normalization` by the fused kernel, where the statistics are those of the batch
    itself: Keras composes it of some twenty passes over the activations (benchmarks/batch_norm.py).

    The values are the same up to rounding. Acts on what is traced or executed inside, in all
    threads.
    """
    global _users, _originals
    with _lock:  # replicas trace in threads of their own, and need not leave in order
        if _users == 0:
            _originals = tf.nn.moments, tf.nn.batch_normalization
            tf.nn.moments, tf.nn.batch_normalization = _moments, _batch_normalization
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                tf.nn.moments, tf.nn.batch_normalization = _originals


def _moments(
    x: tf.Tensor,
    axes: int | Sequence[int],
    shift: Any = None,  # noqa: ARG001  as in tf.nn.moments
    keepdims: bool = False,
    name: str | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    x = tf.convert_to_tensor(x)
    with tf.name_scope(name or "moments"):
        mean, variance = _kept_moments(x, axes)
        if keepdims:
            return mean, variance
        mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
    if x.shape.rank == 4 and list(tf.nest.flatten(axes)) == [0, 1, 2]:
        mean._statistic_of = variance._statistic_of = x
    return mean, variance


def _kept_moments(x: tf.Tensor, axes: int | Sequence[int]) -> tuple[tf.Tensor, tf.Tensor]:
    @tf.custom_gradient
    def moments(x: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable]:
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=True)

        def gradient(d_mean: tf.Tensor, d_variance: tf.Tensor) -> tf.Tensor:
            # d_mean / n + 2 (x - mean) d_variance / n, as a line in x. The mean is taken again, to
            # be differentiated through; the graph optimizer merges it with the first.
            n = tf.cast(tf.size(x) // tf.size(d_mean), x.dtype)
            slope = 2.0 / n * d_variance
            again = tf.reduce_mean(x, axes, keepdims=True)
            return x * slope + (d_mean / n - again * slope)

        return (mean, variance), gradient

    return moments(x)


def _batch_normalization(
    x: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    offset: tf.Tensor | None,
    scale: tf.Tensor | None,
    variance_epsilon: float,
    name: str | None = None,
) -> tf.Tensor:
    own = all(getattr(statistic, "_statistic_of", None) is x for statistic in (mean, variance))
    if not own or x.dtype != tf.float32 or variance_epsilon < _FUSED_EPSILON:
        return _originals[1](x, mean, variance, offset, scale, variance_epsilon, name)
    unknown = tf.zeros([0])  # running statistics, which the kernel does not need here
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=tf.ones_like(mean) if scale is None else scale,
        offset=tf.zeros_like(mean) if offset is None else offset,
        mean=unknown,
        variance=unknown,
        epsilon=variance_epsilon,
        is_training=True,
        name=name,
    ).y
