"""Net A: real images and weights, against an independent float64 implementation and the authors'.

The numbers are those of the reference files; without the folder these tests are skipped, and
`test_characterize.py` compares with tests/reference.py instead.
"""

import keras
import numpy as np
import pytest

from infomcr_tf.characterization import characterize


@pytest.fixture(scope="module")
def files(shared_dir):
    folder = shared_dir / "reference"
    return dict(np.load(folder / "net_a_authors.npz")), dict(np.load(folder / "net_a_float64.npz"))


@pytest.fixture(scope="module")
def net_a(files):
    weights, _ = files
    layers = keras.layers
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
        variable.assign(weights["w/" + "/".join(variable.path.split("/")[-2:])])
    return model


@pytest.mark.parametrize("n", [20, 32])
def test_every_metric_in_inference_mode(net_a, files, n):
    authors, expected = files
    report = characterize(
        net_a,
        authors["images"][:n],
        authors["labels"][:n],
        num_trials=1,
        num_samples=n,
        progress=False,
    )
    expected = {key.split("/")[1]: value for key, value in expected.items() if f"n{n}/" in key}
    # Some roundings of float32 (6e-8) in each row of J, in the fourth power four times as many. In
    # the determinant those of n rows add up, times the condition of the cosines' eigenvectors.
    assert report.spectral_radius == pytest.approx(expected["spectral_radius"], rel=1e-6)
    assert report.trace * n == pytest.approx(expected["trace"], rel=1e-6)
    assert report.frobenius_norm == pytest.approx(expected["mean_norm4"], rel=2e-6)
    assert report.frobenius_norm_cross == pytest.approx(expected["gram_frobenius"], rel=2e-6)
    assert report.gamma_hat == pytest.approx(expected["logdet"], abs=1e-4)
    assert report.rank == n


def test_robustness(net_a, files):
    authors, expected = files
    report = characterize(
        net_a, authors["images"], authors["labels"], metrics=["robustness"], progress=False
    )
    assert report.robustness == pytest.approx(expected["robustness"], rel=2e-6)


def test_normalised_logits(net_a, files):
    authors, expected = files
    report = characterize(
        net_a,
        authors["images"][:20],
        authors["labels"][:20],
        num_trials=1,
        num_samples=20,
        metrics=["gamma_hat"],
        normalize_logits=0.04,
        progress=False,
    )
    assert report.gamma_hat == pytest.approx(expected["infer_normalised_logdet_n20"], abs=1e-4)


def test_authors_protocol(net_a, files):
    """gamma_hat is ln|xi| in their mode; the sum that their code prints is half of it."""
    authors, expected = files
    report = characterize(
        net_a,
        authors["images"],
        authors["labels"],
        num_trials=1,
        num_samples=20,
        metrics=["gamma_hat"],
        protocol="authors",
        progress=False,
    )
    assert report.gamma_hat == pytest.approx(expected["authors_logdet_n20"], abs=1e-4)
    printed = authors["logsum_scale0.04_chunk10_n20"]
    # Their number is a float32 sum near 85, of which one spacing is 8e-6.
    assert report.log_singular_value_sum == pytest.approx(float(printed), abs=1e-4)
