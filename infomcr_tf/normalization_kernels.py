"""Kernels that take the place of Keras' normalisation layers: faster, and twice differentiable."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

_FUSED_EPSILON = 1e-5  # below it cuDNN's kernel refuses
# What a subclass must have inherited for its layers to be computed here.
_METHODS = ("call", "_moments", "_apply_normalization", "_reshape_into_groups")

_lock = threading.Lock()
_thread = threading.local()


@contextmanager
def normalization_kernels(model: keras.Model) -> Iterator[None]:
    """Makes a model's normalisation layers compute by this module's kernels, while inside.

    - `BatchNormalization` in training is one fused kernel of TensorFlow where there is one for it
      (float32, four axes, channels last). Keras composes it of some twenty passes over the
      activations (benchmarks/batch_norm.py).
    - `BatchNormalization`, `LayerNormalization` and `GroupNormalization` have the right second
      derivative. Keras takes their moments by `tf.nn.moments`, which puts the mean under
      stop_gradient in the variance. That leaves the first derivative as it is, since
      sum(x - mean) = 0, but drops a term from the second, so that Hessian-vector products come out
      wrong.

    Values, gradients and moving averages are Keras' up to rounding. A BatchNorm with a mask, with
    `synchronized=True` or `renorm=True` or at inference, a layer in float16 and one of a class with
    its own `call` are computed by Keras as ever; `check_second_derivatives` finds those whose
    second derivative is then wrong.

    Only the model's layers are changed, each by an attribute `call` of its own, and only for what
    this thread traces or executes inside. Several threads (replicas) may be inside with one model,
    and leave in any order.

    Args:
        model: Its layers are found however deeply they are nested.
    """
    entered = [layer for layer in model._flatten_layers() if _kernel_of(layer) is not None]
    with _lock:
        for layer in entered:
            # Written past Keras' __setattr__, which would track the value as a part of the layer.
            vars(layer).setdefault("call", _Replacement(layer)).users += 1
    depth = getattr(_thread, "depth", 0)
    _thread.depth = depth + 1
    try:
        yield
    finally:
        _thread.depth = depth
        with _lock:
            for layer in entered:
                vars(layer)["call"].users -= 1
                if vars(layer)["call"].users == 0:
                    del vars(layer)["call"]


def check_second_derivatives(graph: tf.Graph) -> None:
    """Refuses a traced function whose second derivative TensorFlow gets wrong.

    Args:
        graph: Of the function, its first derivative included or not.

    Raises:
        ValueError: If it, or a function that it calls, uses `tf.nn.moments`.
    """
    definition = graph.as_graph_def()
    for body in (definition.node, *(f.node_def for f in definition.library.function)):
        nodes = {node.name: node for node in body}
        for node in body:
            if node.op == "SquaredDifference" and _is_moments(node, nodes):
                raise ValueError(
                    "The model must not use `tf.nn.moments`, whose second derivative TensorFlow "
                    "gets wrong. In a layer of your own, use `keras.ops.mean` and `keras.ops.var`; "
                    "of Keras' layers, `LayerNormalization`, `GroupNormalization`, or "
                    "`BatchNormalization` without `renorm`. (The regulariser's "
                    "`estimator='finite_difference'` needs no second derivatives.) "
                    f"Received: {node.name.rpartition('/')[0] or node.name}"
                )


def _is_moments(node: Any, nodes: dict[str, Any]) -> bool:
    """Whether a node is `(x - stop_gradient(mean(x)))^2`, whichever its names."""
    x, stopped = (name.split(":")[0] for name in node.input[:2])
    if stopped not in nodes or nodes[stopped].op != "StopGradient":
        return False
    mean = nodes.get(nodes[stopped].input[0].split(":")[0])
    return mean is not None and mean.op == "Mean" and mean.input[0].split(":")[0] == x


class _Replacement:
    """The `call` of a layer while a thread is inside `normalization_kernels`."""

    users = 0

    def __init__(self, layer: keras.layers.Layer) -> None:
        self._layer = layer
        self._kernel = _kernel_of(layer)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        layer, outputs = self._layer, None
        known = isinstance(inputs, tf.Tensor) and inputs.shape.rank is not None
        inside = getattr(_thread, "depth", 0) > 0
        if self._kernel is not None and known and inside and layer.compute_dtype != "float16":
            x = tf.cast(inputs, tf.float64 if inputs.dtype == tf.float64 else tf.float32)
            outputs = self._kernel(layer, x, *args, **kwargs)
        if outputs is None:
            return type(layer).call(layer, inputs, *args, **kwargs)
        return keras.ops.cast(outputs, layer.compute_dtype)


def _kernel_of(layer: keras.layers.Layer) -> Callable[..., tf.Tensor | None] | None:
    """The function for a layer's class, which returns None where Keras' own must be kept."""
    present = vars(layer).get("call")
    if present is not None and not isinstance(present, _Replacement):
        return None
    for base, kernel in _KERNELS.items():
        if isinstance(layer, base):
            own = type(layer)
            same = all(getattr(own, n, None) is getattr(base, n, None) for n in _METHODS)
            return kernel if same else None
    return None


def _batch_normalization(
    layer: keras.layers.BatchNormalization, x: tf.Tensor, training: Any = None, mask: Any = None
) -> tf.Tensor | None:
    of_batch = training and layer.trainable
    if not of_batch or mask is not None or layer.renorm or layer.synchronized:
        return None
    rank = x.shape.rank
    axis = layer.axis % rank
    if x.dtype == tf.float32 and rank == 4 and axis == 3 and layer.epsilon >= _FUSED_EPSILON:
        y, mean, variance = _fused(layer, x)
    else:
        axes = [a for a in range(rank) if a != axis]
        shape = [-1 if a == axis else 1 for a in range(rank)]
        y, mean, variance = _normalized(layer, x, axes, shape)
        mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
    for moving, now in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        before = keras.ops.cast(moving, x.dtype)
        moving.assign(before * layer.momentum + now * (1.0 - layer.momentum))
    return y


def _fused(
    layer: keras.layers.BatchNormalization, x: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    channels = x.shape[-1]
    unknown = tf.zeros([0])  # running statistics, which the kernel does not need here
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=tf.ones([channels]) if layer.gamma is None else keras.ops.cast(layer.gamma, x.dtype),
        offset=tf.zeros([channels]) if layer.beta is None else keras.ops.cast(layer.beta, x.dtype),
        mean=unknown,
        variance=unknown,
        epsilon=layer.epsilon,
        is_training=True,
    )
    # The kernel's variance is sum (x - mean)^2 / (n - 1), Keras' is divided by n. The kernel's
    # gradient knows of the output alone.
    n = tf.cast(tf.size(x) // channels, x.dtype)
    variance = tf.where(n > 1, variance * ((n - 1) / n), tf.zeros_like(variance))
    return y, tf.stop_gradient(mean), tf.stop_gradient(variance)


def _layer_normalization(layer: keras.layers.LayerNormalization, x: tf.Tensor) -> tf.Tensor | None:
    if layer.rms_scaling:
        return None
    axes = [a % x.shape.rank for a in layer.axis]
    shape = [size if a in axes else 1 for a, size in enumerate(x.shape)]
    return _normalized(layer, x, axes, shape)[0]


def _group_normalization(layer: keras.layers.GroupNormalization, x: tf.Tensor) -> tf.Tensor | None:
    axis = layer.axis % x.shape.rank
    size = x.shape[axis] // layer.groups
    shape, static = tf.shape(x), [1] * x.shape.rank
    cut = tf.concat([shape[:axis], [layer.groups, size], shape[axis + 1 :]], axis=0)
    axes = [a for a in range(1, x.shape.rank + 1) if a != axis]
    static[axis : axis + 1] = [layer.groups, size]
    y = _normalized(layer, tf.reshape(x, cut), axes, static)[0]
    return tf.ensure_shape(tf.reshape(y, shape), x.shape)


def _normalized(
    layer: keras.layers.Layer, x: tf.Tensor, axes: Sequence[int], shape: Sequence[int]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`x` normalised over `axes`, with scale and offset brought to `shape`; mean and variance."""
    mean, variance = _moments(x, axes)
    factor = tf.math.rsqrt(variance + layer.epsilon)
    if layer.gamma is not None:
        factor *= tf.reshape(keras.ops.cast(layer.gamma, x.dtype), shape)
    offset = -mean * factor
    if layer.beta is not None:
        offset += tf.reshape(keras.ops.cast(layer.beta, x.dtype), shape)
    return x * factor + offset, mean, variance


def _moments(x: tf.Tensor, axes: Sequence[int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance with the axes kept, and a gradient in closed form."""

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


_KERNELS = {
    keras.layers.BatchNormalization: _batch_normalization,
    keras.layers.LayerNormalization: _layer_normalization,
    keras.layers.GroupNormalization: _group_normalization,
}
