"""The metrics of the true Hessian: against the dense matrix, and only where they are asked for."""

import functools

import numpy as np
import pytest
from gradients.cases import make
from gradients.small_networks import digits, digits_net

from infomcr_tf import characterize
from infomcr_tf.characterization import METRICS, CharacterizeCallback, MinimumReport
from infomcr_tf.characterization.fisher import exact_hessian
from infomcr_tf.characterization.trials import sample_indices
from infomcr_tf.comparison.comparison_options import ComparisonOptions

NAMES = ["hessian_spectral_radius", "hessian_trace", "hessian_frobenius_norm"]


@functools.cache
def dense():
    return make("dense", "float64", num_examples=12)


def test_they_are_those_of_the_dense_hessians_of_the_samples(tmp_path):
    model, x, y = dense()
    report = characterize(
        model,
        x,
        y,
        num_trials=2,
        num_samples=8,
        metrics=["spectral_radius", *NAMES],
        progress=False,
        checkpoint=tmp_path / "checkpoint.json",
    )
    assert report.gamma_hat is None
    for trial in range(2):
        indices = sample_indices(12, 8, trial, seed=0)
        matrix = exact_hessian(model, x[indices], y[indices])
        values = np.linalg.eigvalsh(matrix)
        radius = report.trials["hessian_spectral_radius"][trial]
        # The tolerance of Lanczos, 1e-3, is one of vectors; values are good to its square.
        assert radius == pytest.approx(abs(values).max(), rel=1e-4)
        # 30 products with a matrix whose rank is little more: a small random rest.
        assert report.trials["hessian_trace"][trial] == pytest.approx(values.sum(), rel=0.1)
        norm = report.trials["hessian_frobenius_norm"][trial]
        assert norm == pytest.approx((values**2).sum(), rel=0.05)
    report.save(tmp_path / "report.json")
    assert MinimumReport.load(tmp_path / "report.json").hessian_trace == report.hessian_trace


def test_all_does_not_contain_them():
    model, x, y = dense()
    report = characterize(model, x, y, num_trials=1, num_samples=3, progress=False)
    assert all(name in METRICS and getattr(report, name) is None for name in NAMES)
    assert ComparisonOptions().arguments()["metrics"] == "all"
    assert set(NAMES) < set(ComparisonOptions(hessian=True).arguments()["metrics"])
    only = ComparisonOptions(hessian=True, metrics="trace").arguments()["metrics"]
    assert sorted(only) == sorted(["trace", *NAMES])


def test_changed_logits_are_refused():
    model, x, y = dense()
    for name in ("equalize_loss", "normalize_logits"):
        with pytest.raises(ValueError, match=f"`{name}` must be None for hessian_trace"):
            characterize(model, x, y, num_samples=3, metrics=["hessian_trace"], **{name: 0.1})


def test_the_callback_measures_them_of_the_weights_as_they_are():
    x, y = digits(30)
    model = digits_net(x, y, steps=20)
    callback = CharacterizeCallback(x, y, metrics=NAMES[:1], num_trials=1, num_samples=30)
    history = model.fit(
        x, y, epochs=2, steps_per_epoch=1, batch_size=30, verbose=0, callbacks=[callback]
    ).history
    values = history["hessian_spectral_radius"]
    assert values[0] != values[1]
    assert np.isfinite(values).all()
