"""Yardsticks against closed forms and slow versions in float64."""

import keras
import numpy as np
import pytest

from infomcr_tf import models
from infomcr_tf.experiments.generalization_measures import (
    GENERALIZATION_MEASURES,
    TrainedNetwork,
    compute_measures,
    distance_from_initialization,
    log_path_norm,
    log_spectral_product,
    pac_bayes_flatness,
    sharpness,
    sum_of_squares,
)


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    return generator.standard_normal((24, 6), np.float32), generator.integers(0, 3, 24)


def dense(*kernels, biases=None):
    inputs = outputs = keras.Input((kernels[0].shape[0],))
    for i, kernel in enumerate(kernels):
        last = i == len(kernels) - 1
        outputs = keras.layers.Dense(kernel.shape[1], activation=None if last else "relu")(outputs)
    model = keras.Model(inputs, outputs)
    biases = biases or [np.zeros(kernel.shape[1]) for kernel in kernels]
    model.set_weights([w for pair in zip(kernels, biases, strict=True) for w in pair])
    return model


@pytest.fixture(scope="module")
def two_layers():
    generator = np.random.default_rng(3)
    return dense(
        generator.normal(size=(6, 5)),
        generator.normal(size=(5, 3)),
        biases=[generator.normal(size=5), generator.normal(size=3)],
    )


def test_norm_and_distance(two_layers):
    weights = [np.asarray(v) for v in two_layers.trainable_variables]
    assert distance_from_initialization(two_layers, weights) == 0
    zero = [np.zeros_like(w) for w in weights]
    expected = sum(float((w.astype(float) ** 2).sum()) for w in weights)
    assert sum_of_squares(weights) == pytest.approx(expected)
    assert distance_from_initialization(two_layers, zero) == pytest.approx(expected)
    with pytest.raises(ValueError, match="initial_weights"):
        distance_from_initialization(two_layers, zero[1:])


def test_initial_weights_are_made_again_from_the_seed():
    """What the distance from initialisation relies on."""
    options = {"input_shape": (16, 16, 3), "num_classes": 4, "weight_decay": 1e-4, "seed": 7}
    first, second = (models.resnet20(**options) for _ in range(2))
    weights = [np.asarray(v) for v in first.trainable_variables]
    assert distance_from_initialization(second, weights) == 0


def test_path_norm_sums_squared_products_over_paths(two_layers):
    a, b, c, d = [w.astype(float) for w in two_layers.get_weights()]
    paths = sum(
        (a[i, j] * c[j, k]) ** 2 for i in range(6) for j in range(5) for k in range(3)
    ) + sum((b[j] * c[j, k]) ** 2 for j in range(5) for k in range(3))
    assert np.exp(log_path_norm(two_layers)) == pytest.approx(paths + (d**2).sum(), rel=1e-12)


def test_path_norm_takes_batch_norm_as_an_affine_map():
    """A network with BatchNorm has the path norm of the one where it is folded in."""
    generator = np.random.default_rng(5)
    kernel, head = generator.normal(size=(4, 3)), generator.normal(size=(3, 2))
    gamma, beta, mean = generator.normal(size=(3, 3))
    variance = generator.uniform(0.5, 2, 3)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, use_bias=False)(inputs)
    x = keras.layers.BatchNormalization(epsilon=1e-3)(x)
    outputs = keras.layers.Dense(2, use_bias=False)(keras.layers.ReLU()(x))
    model = keras.Model(inputs, outputs)
    model.set_weights([kernel, gamma, beta, mean, variance, head])
    scale = gamma / np.sqrt(variance + 1e-3)
    folded = np.sum((np.ones(4) @ (kernel**2) * scale**2 + (beta - mean * scale) ** 2) @ head**2)
    # The weights are stored in float32.
    assert np.exp(log_path_norm(model)) == pytest.approx(folded, rel=1e-5)


def test_path_norm_of_a_deep_network_is_finite():
    """ResNet-20 with weights ten times as large: 1e40 and more, beyond float32."""
    model = models.resnet20(input_shape=(16, 16, 3), num_classes=4, seed=0)
    model.set_weights([10 * w if w.ndim == 4 else w for w in model.get_weights()])
    assert 88.7 < log_path_norm(model) < 700


def test_spectral_norm_of_a_convolution_is_that_of_its_matrix():
    """The circular convolution written out as a matrix of 2 x 25 rows and 3 x 25 columns."""
    generator = np.random.default_rng(2)
    n = 5
    inputs = keras.Input((n, n, 2))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 3, padding="same", use_bias=False)(inputs))
    kernel = generator.normal(size=(3, 3, 2, 3)).astype(np.float32)
    model.set_weights([kernel])
    matrix = np.zeros((n, n, 2, n, n, 3))
    for i in range(n):
        for j in range(n):
            for a in range(3):
                for b in range(3):
                    matrix[(i + a) % n, (j + b) % n, :, i, j, :] += kernel[a, b]
    norm = np.linalg.norm(matrix.reshape(2 * n * n, 3 * n * n), 2)
    assert log_spectral_product(model) == pytest.approx(2 * np.log(norm), rel=1e-10)


def test_spectral_product_multiplies_layers(two_layers):
    kernels = two_layers.get_weights()[::2]
    expected = sum(2 * np.log(np.linalg.svd(k.astype(float))[1][0]) for k in kernels)
    assert log_spectral_product(two_layers) == pytest.approx(expected, rel=1e-10)


def test_sharpness_is_the_rise_of_the_loss_along_the_gradient(images):
    """A linear softmax, whose loss and gradient are written out in float64."""
    x, y = images
    kernel = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    model = dense(kernel)

    def loss(w, b):
        z = x.astype(float) @ w + b
        return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(24), y]))

    z = x.astype(float) @ kernel
    d = np.exp(z) / np.exp(z).sum(1, keepdims=True) - np.eye(3)[y]
    g, g_bias = x.T @ d, d.sum(0)
    length = 0.05 / np.sqrt((g**2).sum() + (g_bias**2).sum())
    expected = loss(kernel + length * g, length * g_bias) - loss(kernel, 0.0)
    # A difference of 0.1 between two float32 losses of about 2, each the mean of 24.
    assert sharpness(model, x, y) == pytest.approx(expected, rel=1e-4)


def test_flatness_finds_the_noise_that_costs_a_tenth(images):
    """Scaling the weights of a linear classifier without bias scales sigma: 1/c^2."""
    x, y = images
    kernel = np.linalg.lstsq(x, 4.0 * np.eye(3)[y], rcond=None)[0].astype(np.float32)
    small, large = (
        pac_bayes_flatness(dense_without_bias(c * kernel), x, y, seed=1) for c in (1, 4)
    )
    # Bisection ends at 1/4096 of ln(1e6): sigma to 0.3 %, its square to 0.7 %, on both sides.
    assert small / large == pytest.approx(16, rel=0.015)


def dense_without_bias(kernel):
    inputs = keras.Input((kernel.shape[0],))
    model = keras.Model(inputs, keras.layers.Dense(kernel.shape[1], use_bias=False)(inputs))
    model.set_weights([kernel])
    return model


def test_the_model_is_left_as_it_was():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((8, 8, 8, 1), np.float32)
    y = generator.integers(0, 3, 8)
    model = models.resnet20(input_shape=(8, 8, 1), num_classes=3, seed=0)
    before = [w.copy() for w in model.get_weights()]
    initial = [np.asarray(v) for v in model.trainable_variables]
    values = compute_measures(TrainedNetwork(model=model, initial_weights=initial, x=x, y=y))
    assert list(values) == list(GENERALIZATION_MEASURES)
    assert all(np.isfinite(list(values.values())))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
