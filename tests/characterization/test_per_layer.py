"""Each layer's part of xi, against J computed one example and one layer at a time."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import reference
from gradients.small_networks import conv_net, images

from infomcr_tf import MinimumReport, characterize, compare
from infomcr_tf.characterization import PerLayer
from infomcr_tf.gradients import GradientEngine, gram_matrix


def jacobians(model, x, y):
    """Float64 J_l of each layer [N', W_l], by the reference: one gradient an example."""
    J = reference.per_example_gradients(model, x, y)
    layers, start = {}, 0
    for layer in model.layers:
        width = sum(int(np.prod(v.shape)) for v in layer.trainable_variables)
        if width:
            layers[layer.name] = J[:, start : start + width]
            start += width
    assert start == J.shape[1]
    return layers


@pytest.fixture(scope="module")
def case():
    keras.utils.set_random_seed(0)
    return conv_net(), *images(12)


@pytest.fixture(scope="module")
def expected(case):
    return jacobians(*case)


def test_each_layer_agrees_with_brute_force_and_they_add_up(case, expected):
    model, x, y = case
    engine = GradientEngine(model)
    gram = engine.gram(x, y, per_layer=True)
    assert list(gram.layers) == list(expected)
    assert engine.layer_sizes == {name: J.shape[1] for name, J in expected.items()}
    for name, J in expected.items():
        # J is of float32: some roundings of the longest row.
        xi = J @ J.T
        np.testing.assert_allclose(gram.layers[name].xi, xi, rtol=0, atol=2e-5 * xi.max())
    # The same numbers in float64, added in another order.
    total = sum(layer.xi for layer in gram.layers.values())
    np.testing.assert_allclose(total, gram.xi, rtol=1e-12, atol=1e-12 * gram.xi.max())
    # Without layers, products are rounded to float32.
    np.testing.assert_allclose(gram.xi, gram_matrix(model, x, y), rtol=0, atol=1e-5 * xi.max())


def test_tiles_and_passes_give_the_same_layers(case, monkeypatch):
    model, x, y = case
    whole = GradientEngine(model).gram(x, y, per_layer=True)
    monkeypatch.setattr("infomcr_tf.gradients.passes.MAX_TILE", 5)
    small = GradientEngine(model, max_memory_bytes=20_000).gram(x, y, per_layer=True)
    for name, layer in whole.layers.items():
        scale = layer.xi.max()
        np.testing.assert_allclose(small.layers[name].xi, layer.xi, rtol=0, atol=1e-5 * scale)


def test_the_report_has_share_and_determinant(case, expected, tmp_path):
    model, x, y = case
    report = characterize(
        model, x, y, num_trials=1, num_samples=12, metrics=["gamma_hat"], progress=False
    )
    trace = sum(np.sum(J**2) for J in expected.values())
    assert list(report.per_layer) == list(expected)
    for name, J in expected.items():
        layer = report.per_layer[name]
        assert layer.num_parameters == J.shape[1]
        assert layer.trace_share == pytest.approx(np.sum(J**2) / trace, rel=1e-5)
        if J.shape[1] >= 12:
            sign, logdet = np.linalg.slogdet(J @ J.T)
            # First order: the rounding of J against its smallest singular value.
            values = np.linalg.svd(J, compute_uv=False)
            error = 12 * 1e-6 * float(values[0] / values[-1])
            assert sign == 1
            assert layer.log_determinant == pytest.approx(logdet, abs=max(error, 1e-4))
        else:
            assert layer.log_determinant == -np.inf
    assert sum(layer.trace_share for layer in report.per_layer.values()) == pytest.approx(1)
    report.save(tmp_path / "report.json")
    loaded = MinimumReport.load(tmp_path / "report.json")
    assert loaded.to_dict() == report.to_dict()
    assert list(loaded.per_layer) == list(report.per_layer)
    rows = {(row["layer"], row["name"]): row for row in report.to_rows()}
    first = next(iter(expected))
    assert rows[first, "trace_share"]["value"] == report.per_layer[first].trace_share
    assert rows[first, "log_determinant"]["unit"] == "nat"
    assert first in str(report.per_layer)
    assert len(report.per_layer._repr_html_().split("<tr>")) == len(expected) + 2
    labels = [label.get_text() for axis in report.plot().axes for label in axis.get_yticklabels()]
    assert set(expected) <= set(labels)


def test_equal_loss_scales_the_layers_with_their_examples(case):
    model, x, y = case
    settings = {"metrics": ["trace"], "num_trials": 1, "num_samples": 12, "progress": False}
    report = characterize(model, x, y, normalize_logits=0.5, **settings)
    J = reference.per_example_gradients(model, x, y, normalize_logits=0.5)
    assert report.trace == pytest.approx(np.sum(J**2) / 12, rel=1e-4)
    assert sum(layer.trace_share for layer in report.per_layer.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "empty"),
    [({"per_layer": False}, True), ({"max_memory_bytes": 4000}, True), ({}, False)],
)
def test_layers_are_left_out_where_asked_or_too_large(case, change, empty):
    model, x, y = case
    report = characterize(
        model, x, y, num_trials=2, num_samples=12, metrics=["trace"], progress=False, **change
    )
    assert (len(report.per_layer) == 0) == empty
    assert "per_layer" not in report.to_dict() or not empty
    report.plot()


def test_a_checkpoint_keeps_the_layers(case, tmp_path):
    model, x, y = case
    settings = {"num_samples": 8, "metrics": ["trace"], "progress": False}
    path = tmp_path / "checkpoint.json"
    characterize(model, x, y, num_trials=1, checkpoint=path, **settings)
    resumed = characterize(model, x, y, num_trials=2, checkpoint=path, **settings)
    assert resumed.to_dict() == characterize(model, x, y, num_trials=2, **settings).to_dict()
    # Trials without layers are taken as they are; the report then has none.
    path.unlink()
    characterize(model, x, y, num_trials=1, checkpoint=path, per_layer=False, **settings)
    mixed = characterize(model, x, y, num_trials=2, checkpoint=path, **settings)
    assert len(mixed.per_layer) == 0
    np.testing.assert_allclose(mixed.trials["trace"], resumed.trials["trace"], rtol=1e-5)


def test_a_comparison_writes_the_layers(case, tmp_path):
    model, x, y = case
    settings = {"num_trials": 2, "num_samples": 12, "metrics": ["trace"], "progress": False}
    comparison = compare({"a": model, "b": model}, x, y, out=tmp_path / "out", **settings)
    lines = (tmp_path / "out" / "per_layer.csv").read_text().splitlines()
    layers = len(comparison.minima[0].report.per_layer)
    assert len(lines) == 1 + 2 * layers
    assert lines[0].startswith("run,layer,num_parameters,trace_share")
    assert (tmp_path / "out" / "per_layer.png").read_bytes().startswith(b"\x89PNG")


def test_copies_of_one_architecture_share_the_rows(case):
    """Keras calls the layers of a second copy conv2d_1 and so on."""
    report = characterize(*case, num_trials=2, num_samples=12, metrics=["trace"], progress=False)
    renamed = PerLayer({f"{path}_1": layer for path, layer in report.per_layer.items()})
    copy = dataclasses.replace(report, per_layer=renamed)
    picture = compare({"a": report, "b": copy}).plot_layers()
    rows = [label.get_text() for label in picture.axes[0].get_yticklabels()]
    assert rows == list(report.per_layer)
    other = PerLayer(dict(list(renamed.items())[1:]))
    different = dataclasses.replace(report, per_layer=other)
    picture = compare({"a": report, "b": different}).plot_layers()
    rows = [label.get_text() for label in picture.axes[0].get_yticklabels()]
    assert rows == [*report.per_layer, *other]


def test_a_comparison_of_saved_layers_is_whole(case, tmp_path):
    model, x, y = case
    settings = {"num_trials": 2, "num_samples": 12, "metrics": ["trace"], "progress": False}
    comparison = compare({"a": model}, x, y, out=tmp_path / "out", **settings)
    saved = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert list(saved["minima"][0]["report"]["per_layer"]) == list(
        comparison.minima[0].report.per_layer
    )


def test_bad_files_and_arguments_are_refused(case, tmp_path):
    model, x, y = case
    with pytest.raises(ValueError, match="`per_layer` must be True or False"):
        characterize(model, x, y, num_samples=8, per_layer="yes")
    report = characterize(
        model, x, y, num_trials=2, num_samples=8, metrics=["trace"], progress=False
    )
    path = tmp_path / "report.json"
    report.save(path)
    content = json.loads(path.read_text())
    next(iter(content["per_layer"].values()))["trace_share"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="damaged"):
        MinimumReport.load(path)
