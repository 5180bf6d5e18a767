"""Products of the three matrices: brute force, closed forms, scipy, streams, refusals."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from curvature.cases import SHARED_CASES, Dense, case
from gradients.cases import floatx
from keras import layers
from parameters import some

from infomcr_tf.curvature import (
    FisherOperator,
    GaussNewtonOperator,
    HessianOperator,
    layer_blocks,
)

OPERATORS = (HessianOperator, GaussNewtonOperator, FisherOperator)
# What the three have in common is tested by default of one.
EACH = [OPERATORS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in OPERATORS[1:])]


def logits_of(model):
    """The model without a softmax at its end."""
    if isinstance(model.layers[-1], layers.Softmax):
        return keras.Model(model.input, model.layers[-1].input)
    return model


@pytest.mark.parametrize(
    "name",
    some(
        ("frozen layers", "attention", "small vit", "group norm", *SHARED_CASES, "LSTM"),
        ["group norm"],
    ),
)
def test_products_are_those_of_the_dense_matrices(name):
    model, x, y = case(name, "float64")
    dense = Dense(logits_of(model), x, y)
    v = np.random.default_rng(1).normal(size=sum(int(np.prod(w.shape)) for w in dense.weights))
    v /= np.linalg.norm(v)
    expected = dense.hessian_product(v)
    actual = HessianOperator(model, x, y, batch_size=2) @ v
    # The differences are good to step^4 = 1e-16 times the fifth derivative, and to the rounding of
    # a gradient over the step, 1e-16 / 1e-4.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-8 * (1 + abs(expected).max()))
    for kind, matrix in ((GaussNewtonOperator, dense.gauss_newton), (FisherOperator, None)):
        matrix = (matrix or dense.empirical_fisher)()
        actual = kind(model, x, y, batch_size=3) @ v
        np.testing.assert_allclose(actual, matrix @ v, rtol=0, atol=1e-12 * abs(matrix).max())


def test_batch_statistics_are_differentiated_through():
    model, x, y = case("group norm", "float64", num_examples=7)
    batches = [[0, 1, 2], [3, 4, 5], [6]]
    dense = Dense(model, x, y, batches)
    v = np.random.default_rng(1).normal(size=model.count_params() - 14)
    v /= np.linalg.norm(v)
    before = model.get_weights()
    expected = dense.hessian_product(v, step=1e-5)
    options = {"batch_size": 3, "batch_norm": "batch"}
    actual = HessianOperator(model, x, y, **options) @ v
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-7 * (1 + abs(expected).max()))
    inference = HessianOperator(model, x, y) @ v
    assert abs(inference - expected).max() > 0.01 * abs(expected).max()
    gauss_newton = dense.gauss_newton()
    actual = GaussNewtonOperator(model, x, y, **options) @ v
    # The logits' own Jacobian blocks only: an example's statistics depend on the batch's weights,
    # which are the same for all, so that J_n is the whole derivative.
    np.testing.assert_allclose(actual, gauss_newton @ v, atol=1e-12 * abs(gauss_newton).max())
    fisher = dense.empirical_fisher()
    actual = FisherOperator(model, x, y, **options) @ v
    np.testing.assert_allclose(actual, fisher @ v, rtol=0, atol=1e-12 * abs(fisher).max())
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@functools.cache
def linear_softmax():
    """Closed form: A = (1/N) sum_n S_n kron [x_n, 1][x_n, 1]^T in the order kernel [d, K], bias."""
    with floatx("float64"):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 3)), rng.integers(4, size=9)
    z = model(x).numpy()
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    extended = np.concatenate([x, np.ones((9, 1))], axis=1)
    spread = np.einsum("nk,kl->nkl", p, np.eye(4)) - np.einsum("nk,nl->nkl", p, p)
    residual = p - np.eye(4)[y]
    outer = np.einsum("nk,nl->nkl", residual, residual)
    matrices = [
        np.einsum("ni,nj,nkl->ikjl", extended, extended, inner).reshape(16, 16) / 9
        for inner in (spread, outer)
    ]
    return model, x, y, matrices[0], matrices[1]


def test_linear_softmax_is_the_closed_form():
    model, x, y, hessian, fisher = linear_softmax()
    for kind, expected in zip(OPERATORS, (hessian, hessian, fisher), strict=True):
        actual = kind(model, x, y, batch_size=4) @ np.eye(16)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-14)


def test_blocks_of_a_layer_of_a_relu_network_agree_and_the_matrices_do_not():
    with floatx("float64"):
        keras.utils.set_random_seed(0)
        hidden = [layers.Dense(6, activation="relu"), layers.Dense(5, activation="relu")]
        model = keras.Sequential([keras.Input((4,)), *hidden, layers.Dense(3)])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 4)), rng.integers(3, size=8)
    hessian, gauss_newton = HessianOperator(model, x, y), GaussNewtonOperator(model, x, y)
    blocks = [layer_blocks(hessian), layer_blocks(gauss_newton)]
    assert [len(block) for block in blocks] == [3, 3]
    for name in blocks[0]:
        # Kernel and bias of one layer enter the piece's logits linearly.
        parts = [block[name] @ np.eye(block[name].shape[0]) for block in blocks]
        np.testing.assert_allclose(parts[0], parts[1], rtol=0, atol=1e-14)
    whole = [operator @ np.eye(operator.shape[0]) for operator in (hessian, gauss_newton)]
    assert abs(whole[0] - whole[1]).max() > 1e-3


@pytest.mark.parametrize("kind", EACH)
def test_linear_operator_contract(kind):
    model, x, y = case("convolution", num_examples=7)
    operator = kind(model, x, y, batch_size=3)
    V = np.random.default_rng(2).normal(size=(operator.shape[1], 3))
    together = operator @ V
    assert together.dtype == operator.dtype == np.float64
    np.testing.assert_array_equal(together[:, 1], operator @ V[:, 1])
    np.testing.assert_array_equal(together, operator.T @ V)
    np.testing.assert_array_equal(together[:, 0], operator.rmatvec(V[:, 0]))
    np.testing.assert_array_equal(operator @ (0 * V), 0)
    # Batches only change the order of sums, and vectors of any size keep float32's digits.
    whole = kind(model, x, y).matmat(V * 1e-60) * 1e60
    np.testing.assert_allclose(whole, together, rtol=0, atol=1e-5 * abs(together).max())
    gram = V.T @ together
    np.testing.assert_allclose(gram, gram.T, rtol=0, atol=1e-5 * abs(gram).max())


@pytest.mark.parametrize("kind", EACH)
def test_losses_far_below_float32_have_products(kind):
    """The last layer times 60: losses near e^-100, and products of two such gradients."""
    with floatx("float64"):
        double = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
    single = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
    x = np.eye(3, dtype=np.float32)
    kernel = np.zeros((3, 4))
    kernel[np.arange(3), np.arange(3)] = 80.0
    for model in (single, double):
        model.set_weights([kernel, np.zeros(4)])
    expected = kind(double, x, [0, 1, 2]) @ np.arange(16.0)
    actual = kind(single, x, [0, 1, 2]) @ np.arange(16.0)
    assert 0 < abs(expected).max() < 1e-30
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("number", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2))])
def test_data_sets_give_what_arrays_give(number):
    model, x, y = case("convolution", num_examples=7)
    v = np.ones(model.count_params())
    expected = HessianOperator(model, x, y, batch_size=3) @ v

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            part = slice(3 * index, 3 * index + 3)
            return x[part], y[part]

    def generator():
        return (Batches()[index] for index in range(3))

    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(3)
    source = (dataset, Batches(), generator)[number]
    np.testing.assert_array_equal(HessianOperator(model, source) @ v, expected)


@pytest.mark.slow
def test_replicas_and_a_mirrored_model_give_the_same():
    model, x, y = case("group norm", num_examples=7)
    v = np.ones(sum(int(np.prod(w.shape)) for w in model.trainable_variables))
    names = [device.name for device in tf.config.list_logical_devices("CPU")[1:3]]
    with tf.distribute.MirroredStrategy(names).scope():
        mirrored = keras.models.clone_model(model)
    mirrored.set_weights(model.get_weights())
    for kind in OPERATORS:
        expected = kind(model, x, y, batch_size=2) @ v
        for other in (
            kind(model, x, y, batch_size=2, devices=names) @ v,
            kind(mirrored, x, y, batch_size=2, devices=names) @ v,
        ):
            np.testing.assert_allclose(other, expected, rtol=0, atol=1e-6 * abs(expected).max())


class Noise(layers.Layer):
    """Random in inference mode, too, from a given call on."""

    def call(self, inputs):
        return inputs + keras.random.normal((keras.ops.shape(inputs)[-1],))


class NotItsDerivative(layers.Layer):
    """The identity with a gradient that no function has."""

    def call(self, inputs):
        @tf.custom_gradient
        def identity(x):
            return tf.identity(x), lambda upstream: upstream * tf.roll(x, 1, axis=-1)

        return identity(inputs)


def tiny(*middle):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), layers.Dense(5), *middle, layers.Dense(3)])


X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])


def test_random_layers_are_refused():
    model = tiny(Noise())
    with pytest.raises(ValueError, match="random"):
        GaussNewtonOperator(model, X, Y)
    model = tiny(layers.BatchNormalization(), Noise())
    with pytest.raises(ValueError, match="random"):
        GaussNewtonOperator(model, X, Y, batch_norm="batch")
    with pytest.raises(ValueError, match="asymmetric"):
        HessianOperator(tiny(NotItsDerivative()), X, Y)
    # Dropout is not random in inference mode.
    HessianOperator(tiny(layers.Dropout(0.5)), X, Y)


def test_changed_data_and_weights_are_refused():
    model = tiny()
    v = np.ones(model.count_params())
    dataset = tf.data.Dataset.from_tensor_slices((X, Y))
    with pytest.raises(ValueError, match="same in every pass"):
        HessianOperator(model, dataset.shuffle(6).batch(2))
    fixed = dataset.shuffle(6, seed=0, reshuffle_each_iteration=False).batch(2)
    HessianOperator(model, fixed) @ v
    lengths = iter([3, 3, 3, 2])

    def shrinking():
        return ((X[i : i + 2], Y[i : i + 2]) for i in range(0, 2 * next(lengths), 2))

    operator = HessianOperator(model, shrinking)
    operator @ v
    with pytest.raises(ValueError, match="same in every pass"):
        operator @ v
    x = X.copy()
    operator = FisherOperator(model, x, Y, batch_size=2)
    operator @ v
    x[5] += 1
    with pytest.raises(ValueError, match="a batch 3 that differs"):
        operator @ v
    x[5] -= 1
    model.layers[0].bias.assign_add([1.0] * 5)
    with pytest.raises(ValueError, match="weights have changed"):
        operator @ v


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, Y), {"batch_size": 0}, ValueError, "`batch_size` must be an integer >= 1"),
        ((X, Y), {"batch_norm": "none"}, ValueError, "`batch_norm` must be one of"),
        ((X, Y), {"devices": ["TPU:9"]}, ValueError, "`devices` must be names"),
        ((X, Y + 2), {}, ValueError, "0 to 2. Received: 3"),
        ((X,), {}, TypeError, "`y` must be given"),
        ((lambda: iter(()),), {}, ValueError, "at least one batch"),
        ((lambda: iter([(X, Y, Y)]),), {}, ValueError, "without sample weights"),
        (
            (tf.data.Dataset.from_tensors((X, Y)).repeat(),),
            {},
            ValueError,
            "`x` must be finite",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, options, error, message):
    with pytest.raises(error, match=message) as caught:
        HessianOperator(tiny(), *arguments, **options)
    assert "\n" not in str(caught.value)


def test_bad_vectors_are_refused():
    operator = GaussNewtonOperator(tiny(), X, Y)
    with pytest.raises(ValueError, match="must be finite"):
        operator @ np.full(operator.shape[0], np.nan)
    with pytest.raises(ValueError, match="dimension mismatch"):
        operator @ np.ones(3)
    with pytest.raises(TypeError, match="must be a HessianOperator"):
        layer_blocks(np.eye(3))


def test_another_loss():
    """The mean squared error of a linear model: H = (2 / K) [x, 1][x, 1]^T kron 1, and F."""
    with floatx("float64"):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
    extended = np.concatenate([x, np.ones((7, 1))], axis=1)
    hessian = np.kron(extended.T @ extended / 7, np.eye(2))
    residuals = model(x).numpy() - y
    rows = np.einsum("ni,nk->nik", extended, residuals).reshape(7, -1)
    for kind, expected in zip(OPERATORS, (hessian, hessian, rows.T @ rows / 7), strict=True):
        actual = kind(model, x, y, loss="mse", batch_size=3) @ np.eye(8)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-13)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match='`loss="auto"` is the cross-entropy'):
        HessianOperator(model, x, [0, 1, 0, 1, 0, 1, 0])
