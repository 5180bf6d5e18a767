"""The usual generalization measures, to compare the paper's metrics with (Jiang et al. 2020).

Lower is said to generalise better for each. "Jiang et al." is "Fantastic Generalization Measures
and Where to Find Them", ICLR 2020.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from infomcr_tf.registry import Registry

_SHARPNESS_RADIUS = 0.05  # rho of Foret et al. (2021)
_ACCURACY_DROP = 0.1  # Jiang et al., appendix C
_SIGMAS = (1e-5, 10.0)
_BISECTIONS = 12
_DRAWS = 3
_BATCH = 256


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TrainedNetwork:
    """What a generalization measure may depend on.

    Attributes:
        model: of convolutions, dense layers and BatchNorm; ends in logits; measured in inference
            mode and left as it is.
        initial_weights: its trainable weights before training.
        x: some normalised training images.
        y: their labels, integers.
        seed: of random perturbations.
    """

    model: keras.Model
    initial_weights: Sequence[np.ndarray]
    x: np.ndarray
    y: np.ndarray
    seed: int = 0


# Name -> the measure of a trained network.
GENERALIZATION_MEASURES: Registry[Callable[[TrainedNetwork], float]] = Registry(
    "generalization measure"
)


def compute_measures(
    network: TrainedNetwork, names: Collection[str] = GENERALIZATION_MEASURES
) -> dict[str, float]:
    """The measures called `names`, by default all, of a trained network.

    Raises:
        ValueError: if `initial_weights` do not fit the model.
    """
    return {name: float(GENERALIZATION_MEASURES[name](network)) for name in names}


def sum_of_squares(weights: Sequence[np.ndarray]) -> float:
    """`||w||_2^2` over all trainable weights."""
    return float(sum(np.sum(np.square(np.asarray(w, np.float64))) for w in weights))


def distance_from_initialization(
    model: keras.Model, initial_weights: Sequence[np.ndarray]
) -> float:
    """`||w - w_init||_2^2` over the trainable weights.

    Raises:
        ValueError: if the shapes differ.
    """
    weights = _weights(model)
    if [w.shape for w in weights] != [np.shape(w) for w in initial_weights]:
        raise ValueError("`initial_weights` must have the shapes of the model's weights.")
    pairs = zip(weights, initial_weights, strict=True)
    return sum_of_squares([w.astype(np.float64) - np.asarray(v, np.float64) for w, v in pairs])


def log_path_norm(model: keras.Model) -> float:
    """Logarithm of `sum_k f_{w^2}(1)_k`: an input of ones through the squared weights.

    BatchNorm in inference mode is an affine map; its slope and offset are squared (Jiang et al.,
    appendix C; Neyshabur et al. 2015). Pooling keeps its own weights.
    """
    squared = keras.Model.from_config(_in_float64(model.get_config()))
    for own, layer in zip(model.layers, squared.layers, strict=True):
        if isinstance(layer, keras.layers.BatchNormalization):
            scale, offset = _affine(own)
            values = {
                "gamma": scale**2,
                "beta": offset**2,
                "moving_mean": np.zeros_like(scale),
                # The layer divides by sqrt(variance + epsilon), which is to be one.
                "moving_variance": np.full_like(scale, 1 - layer.epsilon),
            }
            for weight in layer.weights:
                weight.assign(values[weight.name])
        else:
            layer.set_weights([np.square(w.astype(np.float64)) for w in own.get_weights()])
    output = squared(np.ones((1, *model.input_shape[1:])), training=False)
    with np.errstate(divide="ignore"):
        return float(np.log(np.sum(np.asarray(output))))


def log_spectral_product(model: keras.Model) -> float:
    """`sum_l ln ||W_l||_2^2` over convolutions, dense layers and BatchNorm.

    The spectral norm of a convolution is that of the circular one with stride 1 on its input's
    size, exact by the Fourier transform (Sedghi et al. 2019); of BatchNorm, the largest |slope|.
    """
    total = 0.0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            size = layer.input.shape[1:3]
            kernel = np.asarray(layer.kernel, np.float64)
            per_frequency = np.fft.fft2(kernel, size, axes=(0, 1))
            total += 2 * math.log(np.linalg.svd(per_frequency, compute_uv=False).max())
        elif isinstance(layer, keras.layers.Dense):
            total += 2 * math.log(np.linalg.norm(np.asarray(layer.kernel, np.float64), 2))
        elif isinstance(layer, keras.layers.BatchNormalization):
            total += 2 * math.log(np.abs(_affine(layer)[0]).max())
    return total


def sharpness(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """`L(w + rho g / ||g||) - L(w)` with g the gradient of L at w and rho = 0.05.

    L is the mean cross-entropy over the examples: the first-order estimate of the largest loss
    within radius rho that sharpness-aware minimisation uses (Foret et al. 2021).
    """
    weights = model.trainable_variables
    total = [np.zeros(w.shape) for w in weights]
    before = 0.0

    @tf.function(reduce_retracing=True)
    def gradient(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(_losses(model(images, training=False), labels))
        values = [weight.value for weight in weights]
        return loss, tape.gradient(loss, values, unconnected_gradients="zero")

    for images, labels in _batches(x, y):
        loss, gradients = gradient(images, labels)
        before += float(loss)
        total = [t + g.numpy() for t, g in zip(total, gradients, strict=True)]
    norm = math.sqrt(sum_of_squares(total))
    if norm == 0.0:
        return 0.0
    with _restored(model):
        for weight, own in zip(weights, total, strict=True):
            weight.assign_add((_SHARPNESS_RADIUS / norm * own).astype(np.float32))
        after = float(np.sum(_evaluate(model, x, y)[0]))
    return (after - before) / len(y)


def pac_bayes_flatness(model: keras.Model, x: np.ndarray, y: np.ndarray, *, seed: int = 0) -> float:
    """`1 / sigma^2`, sigma the largest noise that costs at most 10 % of training accuracy.

    All trainable weights get independent normal noise of deviation sigma; the drop of accuracy is
    the mean over three draws, the same for every sigma; sigma is found by bisection between 1e-5
    and 10 (Jiang et al., appendix C).
    """
    generator = np.random.default_rng(seed)
    weights = _weights(model)
    noise = [
        [generator.standard_normal(w.shape, np.float32) for w in weights] for _ in range(_DRAWS)
    ]

    def accuracy(sigma: float, draws: Sequence[Sequence[np.ndarray]]) -> float:
        found = []
        for draw in draws:
            for variable, own, u in zip(model.trainable_variables, weights, draw, strict=True):
                variable.assign(own + np.float32(sigma) * u)
            found.append(np.mean(_evaluate(model, x, y)[1]))
        return float(np.mean(found))

    with _restored(model):
        limit = accuracy(0.0, noise[:1]) - _ACCURACY_DROP
        low, high = (math.log(sigma) for sigma in _SIGMAS)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if accuracy(math.exp(middle), noise) >= limit:
                low = middle
            else:
                high = middle
    return math.exp(-2 * low)


def _weights(model: keras.Model) -> list[np.ndarray]:
    return [np.asarray(variable) for variable in model.trainable_variables]


@contextlib.contextmanager
def _restored(model: keras.Model) -> Iterator[None]:
    """Gives the model its weights back, whatever happens."""
    weights = _weights(model)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value)


def _affine(layer: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset of BatchNorm in inference mode."""
    values = {weight.name: np.asarray(weight, np.float64) for weight in layer.weights}
    scale = values.get("gamma", 1.0) / np.sqrt(values["moving_variance"] + layer.epsilon)
    return scale, values.get("beta", 0.0) - scale * values["moving_mean"]


def _in_float64(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _in_float64(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_in_float64(value) for value in config)
    return "float64" if config == "float32" else config


def _losses(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def _batches(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    for start in range(0, len(y), _BATCH):
        part = slice(start, start + _BATCH)
        yield tf.constant(x[part]), tf.constant(np.asarray(y[part], np.int32))


def _evaluate(model: keras.Model, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss and correctness of each example."""
    losses, correct = [], []
    for images, labels in _batches(x, y):
        logits = model(images, training=False)
        losses.append(_losses(logits, labels).numpy().astype(np.float64))
        correct.append(np.argmax(logits, axis=1) == labels.numpy())
    return np.concatenate(losses), np.concatenate(correct)


for _name, _measure in {
    "parameter_norm": lambda n: sum_of_squares(_weights(n.model)),
    "distance_from_initialization": lambda n: distance_from_initialization(
        n.model, n.initial_weights
    ),
    "log_path_norm": lambda n: log_path_norm(n.model),
    "log_spectral_product": lambda n: log_spectral_product(n.model),
    "sharpness": lambda n: sharpness(n.model, n.x, n.y),
    "pac_bayes_flatness": lambda n: pac_bayes_flatness(n.model, n.x, n.y, seed=n.seed),
}.items():
    GENERALIZATION_MEASURES.register(_name, _measure)
