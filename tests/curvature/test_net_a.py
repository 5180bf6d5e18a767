"""A network on real images, against dense float64 matrices of an independent implementation.

`net_a.npz` holds inputs, weights and numbers: `order` names the weights in the order of `v` and
`<matrix>/matvec`; `<matrix>/eigenvalues` are the two smallest and the three largest.
"""

import functools
from pathlib import Path

import keras
import numpy as np
import pytest
from gradients.cases import floatx
from keras import layers
from parameters import some

from infomcr_tf.curvature import (
    FisherOperator,
    GaussNewtonOperator,
    HessianOperator,
    layer_blocks,
    log_determinant,
    spectral_density,
    top_eigenvalues,
    trace_and_squared_norm,
)

MATRICES = {
    "hessian": HessianOperator,
    "ggn": GaussNewtonOperator,
    "empirical_fisher": FisherOperator,
}
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def expected():
    return dict(np.load(Path(__file__).with_name("net_a.npz")))


def build(expected, dtype):
    with floatx(dtype):
        model = keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv1"),
                layers.BatchNormalization(epsilon=1e-5, name="bn1"),
                layers.ReLU(),
                layers.AveragePooling2D(2),
                layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv2"),
                layers.BatchNormalization(epsilon=1e-5, name="bn2"),
                layers.ReLU(),
                layers.GlobalAveragePooling2D(),
                layers.Dense(10, name="fc"),
            ]
        )
    for variable in model.variables:
        variable.assign(expected["w/" + "/".join(variable.path.split("/")[-2:])])
    return model


@pytest.fixture(scope="module")
def double(expected):
    """`double(name)`: the operator of that kind, float64."""
    model = build(expected, "float64")
    images, labels = expected["images"].astype(float), expected["labels"]
    return functools.cache(lambda name: MATRICES[name](model, images, labels, batch_size=20))


@pytest.mark.parametrize("name", some(MATRICES, ["hessian"]))
def test_products(expected, double, name):
    # The order of the weights in the file is that of Keras for this network.
    paths = ["/".join(v.path.split("/")[-2:]) for v in double(name).network.variables]
    assert paths == list(expected["order"])
    reference = expected[f"{name}/matvec"]
    actual = double(name) @ expected["v"]
    np.testing.assert_allclose(actual, reference, rtol=0, atol=1e-12 * abs(reference).max())
    single = MATRICES[name](build(expected, "float32"), expected["images"], expected["labels"])
    # Some ten roundings of 6e-8 in a row.
    np.testing.assert_allclose(
        single @ expected["v"], reference, rtol=0, atol=2e-6 * abs(reference).max()
    )


@pytest.mark.parametrize("name", some(MATRICES, ["hessian"]))
def test_spectrum(expected, double, name):
    eigenvalues = expected[f"{name}/eigenvalues"]
    values, _ = top_eigenvalues(double(name), 3, tol=1e-6, **QUIET)
    np.testing.assert_allclose(values, eigenvalues[:-4:-1], rtol=1e-9)
    if name == "hessian":
        values, _ = top_eigenvalues(double(name), which="SA", tol=1e-4, **QUIET)
        np.testing.assert_allclose(values, eigenvalues[:1], rtol=1e-6)
    trace, norm = trace_and_squared_norm(double(name), num_probes=45, **QUIET)
    for estimate, key in ((trace, "trace"), (norm, "frobenius_squared")):
        error = estimate.value - expected[f"{name}/{key}"]
        assert abs(error) < 4 * estimate.standard_error
        # A probe's z^T A z has a variance of at most 2 ||A||_F^2, A here the matrix or its square;
        # with a third of the 45 probes, and a factor of 2 for the estimated deviation.
        assert estimate.standard_error < 2 * np.sqrt(2 / 15) * estimate.value
    density = spectral_density(double(name), num_steps=25, **QUIET)
    np.testing.assert_allclose(density.nodes[0][-1], eigenvalues[-1], rtol=1e-6)


@pytest.mark.slow
def test_log_determinant_of_the_fisher_matrix_is_that_of_its_gram_matrix(expected, double):
    """ln det(F + d I) = ln det(J J^T / N + d I) + (W - N) ln d, with 32 eigenvalues."""
    operator = double("empirical_fisher")
    values, _ = top_eigenvalues(operator, 32, tol=1e-8, **QUIET)
    exact = np.log(values + 0.1).sum() + (operator.shape[0] - 32) * np.log(0.1)
    estimate = log_determinant(operator, damping=0.1, num_probes=4, num_steps=33, **QUIET)
    assert abs(estimate.value - exact) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.01 * abs(exact)


@pytest.mark.slow
def test_blocks(expected, double):
    blocks = layer_blocks(double("hessian"))
    assert list(blocks) == ["conv1", "bn1", "conv2", "bn2", "fc"]
    assert [block.shape[0] for block in blocks.values()] == [216, 16, 1152, 32, 170]
    values, _ = top_eigenvalues(blocks["conv2"], tol=1e-5, **QUIET)
    assert values[0] == pytest.approx(expected["hessian/block_top/conv2/kernel"], rel=1e-8)
    # A layer of two weights: the trace of both, exact with as many products as rows.
    trace, _ = trace_and_squared_norm(blocks["bn2"], num_probes=32, **QUIET)
    both = expected["hessian/block_trace/bn2/gamma"] + expected["hessian/block_trace/bn2/beta"]
    assert trace.value == pytest.approx(both, rel=1e-10)
