"""The Gram matrix: architectures, singular cases, memory, devices, errors."""

import functools
import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from gradients.cases import make, randomised

from infomcr_tf import models
from infomcr_tf.characterization import check_examples
from infomcr_tf.gradients import GradientEngine, accumulation, gram_matrix, per_example_jacobian
from infomcr_tf.gradients import gram as gram_module
from infomcr_tf.gradients.accumulation import run_pass
from infomcr_tf.gradients.blocks import Lookups, OuterProducts, Rows, dense_rows, inner_products
from infomcr_tf.gradients.gram_result import largest_eigenvalue, logdet_errors

ARCHITECTURES = {
    "cnn": (models.cnn, (8, 8, 3)),
    "resnet20": (models.resnet20, (16, 16, 3)),
    "wrn28_2": (models.wrn28_2, (8, 8, 3)),
    "densenet_bc_100_12": (models.densenet_bc_100_12, (8, 8, 3)),
    "wrn18_1_5": (models.wrn18_1_5, (32, 32, 3)),
}


def architecture(name, num_classes=4, num_examples=6):
    build, shape = ARCHITECTURES[name]
    keras.utils.set_random_seed(1)
    model = build(input_shape=shape, num_classes=num_classes)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_examples, *shape)).astype(np.float32)
    return model, x, rng.integers(num_classes, size=num_examples)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_methods_agree_on_the_architectures(name):
    model, x, y = architecture(name)
    engine = GradientEngine(model)
    auto = engine.gram(x, y)
    assert engine.without_rule == []
    jacobian = GradientEngine(model, method="jacobian").gram(x, y)
    np.testing.assert_allclose(auto.xi, jacobian.xi, rtol=0, atol=1e-5 * jacobian.xi.max())
    np.testing.assert_allclose(auto.logdet, jacobian.logdet, atol=1e-3)


def test_grouped_and_sliced_convolutions_agree(monkeypatch):
    convolution = sys.modules["infomcr_tf.gradients.op_rules.convolution"]
    model, x, y = make("convolution of large maps")
    as_it_is = gram_matrix(model, x, y)
    has_grouped_gradients = mock.Mock(return_value=False)
    monkeypatch.setattr(convolution, "_has_grouped_gradients", has_grouped_gradients)
    sliced = gram_matrix(*make("convolution of large maps"))  # a model's graphs are kept with it
    has_grouped_gradients.assert_called()
    np.testing.assert_allclose(as_it_is, sliced, rtol=0, atol=1e-5 * sliced.max())


def test_memory_bound_makes_passes_and_not_another_result():
    model, x, y = make("convolution", num_examples=7)
    expected = gram_matrix(model, x, y)
    bound = 12_000
    for method in ("auto", "one_example", "jacobian"):
        engine = GradientEngine(model, method=method, max_memory_bytes=bound)
        actual = engine.gram(x, y).xi
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * expected.max())
        tensors, labels, plan = engine._prepare(x, y.astype(np.int64))
        passes = plan.passes(tensors, labels)
        assert len(passes) > 1
        for part in passes:
            blocks = run_pass(part, tensors, labels)[1]
            assert sum(np.asarray(t).nbytes for t in tf.nest.flatten(blocks)) <= bound * 3 / 4


def test_tiles_give_what_one_piece_gives(monkeypatch):
    model, x, y = make("convolution", num_examples=13)
    expected = GradientEngine(model).gram(x, y)
    monkeypatch.setattr("infomcr_tf.gradients.passes.MAX_TILE", 4)
    run_piece = mock.Mock(side_effect=accumulation.run_pass)
    monkeypatch.setattr(accumulation, "run_pass", run_piece)
    actual = GradientEngine(model, max_memory_bytes=40_000).gram(x, y)
    assert run_piece.call_count >= 4  # of 4, 4, 4 and 1 examples
    np.testing.assert_allclose(actual.cosines, expected.cosines, atol=1e-6)
    np.testing.assert_array_equal(actual.cosines, actual.cosines.T)
    np.testing.assert_allclose(actual.logdet, expected.logdet, atol=1e-3)
    np.testing.assert_allclose(actual.losses, expected.losses)


def test_tiles_agree_with_the_direct_way_in_float64(monkeypatch):
    # Nearly equal examples in different tiles, whose products in float32 would not do.
    model, x, y = make("dense", num_examples=13)
    x[7], y[7] = x[0] * (1 + 2e-4), y[0]
    x[12], y[12] = x[5] * (1 - 3e-4), y[5]
    monkeypatch.setattr("infomcr_tf.gradients.passes.MAX_TILE", 4)
    again = []
    refine = accumulation.Accumulation.refine
    monkeypatch.setattr(
        accumulation.Accumulation, "refine", lambda *a: (again.extend(a[-1]), refine(*a))
    )
    gram = GradientEngine(model, max_memory_bytes=10_000).gram(x, y)
    np.testing.assert_array_equal(gram.cosines, gram.cosines.T)
    # The tiles of 4 in which they are, and not those of which no determinant depends.
    assert {(0, 1), (1, 3)} <= set(again)
    assert len(again) < 10
    assert gram.logdet_error < 1e-3
    rows = reference.per_example_gradients(reference.float64_copy(model), x.astype(float), y)
    # As in `test_nearly_repeated_examples_are_not_singular`, for two pairs.
    np.testing.assert_allclose(gram.logdet, np.linalg.slogdet(rows @ rows.T)[1], atol=0.04)
    norms = np.linalg.norm(rows, axis=1)
    # The cosines of rows that are in float32 themselves.
    np.testing.assert_allclose(gram.cosines, rows @ rows.T / np.outer(norms, norms), atol=2e-6)


def test_an_interrupted_gram_matrix_goes_on(monkeypatch, tmp_path):
    model, x, y = make("convolution", num_examples=7)
    monkeypatch.setattr("infomcr_tf.gradients.accumulation._WRITE_EVERY", 0.0)
    expected = GradientEngine(model, max_memory_bytes=6_000).gram(x, y)
    original, passes = accumulation.run_pass, []

    def stops(part, *examples):
        passes.append(part)
        if len(set(map(id, passes))) == 3 and stop:
            raise KeyboardInterrupt
        return original(part, *examples)

    monkeypatch.setattr(accumulation, "run_pass", stops)
    state, stop = tmp_path / "gram.npz", True
    engine = GradientEngine(model, max_memory_bytes=6_000)
    with pytest.raises(KeyboardInterrupt):
        engine.gram(x, y, state=state)
    assert state.exists()
    passes, stop = [], False
    tensors, labels, plan = engine._prepare(x, y.astype(np.int64))
    actual = engine.gram(x, y, state=state)
    assert len(set(map(id, passes))) == len(plan.passes(tensors, labels)) - 2
    np.testing.assert_array_equal(actual.cosines, expected.cosines)
    np.testing.assert_array_equal(actual.losses, expected.losses)
    assert not state.exists()


KILLED = """
import sys, time
from gradients.cases import make
from infomcr_tf.gradients import GradientEngine, accumulation
original, accumulation._WRITE_EVERY = accumulation.run_pass, 0.0
def slowly(*arguments):
    time.sleep(0.5)
    return original(*arguments)
accumulation.run_pass = slowly
model, x, y = make("convolution", num_examples=7)
GradientEngine(model, max_memory_bytes=6_000).gram(x, y, state=sys.argv[1])
"""


@pytest.mark.slow
def test_a_killed_gram_matrix_resumes(monkeypatch, tmp_path):
    state = tmp_path / "gram.npz"
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    command = [sys.executable, "-c", KILLED, str(state)]
    with subprocess.Popen(command, env=environment) as process:
        while not state.exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    model, x, y = make("convolution", num_examples=7)
    engine = GradientEngine(model, max_memory_bytes=6_000)
    expected = engine.gram(x, y)
    run_piece = mock.Mock(side_effect=accumulation.run_pass)
    monkeypatch.setattr(accumulation, "run_pass", run_piece)
    actual = engine.gram(x, y, state=state)
    tensors, labels, plan = engine._prepare(x, y.astype(np.int64))
    assert 0 < run_piece.call_count < len(plan.passes(tensors, labels))
    np.testing.assert_array_equal(actual.cosines, expected.cosines)
    assert not state.exists()


def test_the_state_of_other_examples_is_not_taken(monkeypatch, tmp_path):
    model, x, y = make("convolution", num_examples=7)
    monkeypatch.setattr("infomcr_tf.gradients.accumulation._WRITE_EVERY", 0.0)
    state = tmp_path / "gram.npz"
    engine = GradientEngine(model, max_memory_bytes=6_000)
    monkeypatch.setattr(accumulation.Accumulation, "forget", lambda _: None)
    engine.gram(x, y, state=state)
    assert state.exists()
    other = engine.gram(x[::-1].copy(), y[::-1].copy(), state=state)
    expected = GradientEngine(model).gram(x[::-1].copy(), y[::-1].copy())
    np.testing.assert_allclose(other.cosines, expected.cosines, atol=1e-6)


def test_row_blocks_cover_all_columns_once():
    model, x, y = make("convolution of small maps")
    width = model.count_params()
    seen = np.zeros(width, int)
    for columns, block, _ in GradientEngine(model).row_blocks(x, y):
        seen[columns] += 1
        assert block.shape == (len(y), columns.stop - columns.start)
    np.testing.assert_array_equal(seen, 1)


def test_inner_products_of_factors_and_of_rows_agree():
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(6, 3, 700)), rng.normal(size=(6, 3, 50))
    factors = OuterProducts(tf.constant(u), tf.constant(v))
    rows = np.einsum("nsp,nsq->npq", u, v).reshape(6, -1)
    parts = Rows((tf.constant(rows[:, :9]), tf.constant(rows[:, 9:])))
    for block in (factors, Rows((tf.constant(rows),)), parts):
        few = tf.nest.map_structure(lambda t: t[:4], block)
        actual = inner_products([few], [block], tf.float64)
        expected = rows[:4] @ rows.T
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10 * expected.max())
        np.testing.assert_allclose(dense_rows(block), rows, atol=1e-10)


def test_inner_products_of_lookups_agree_with_those_of_rows():
    rng = np.random.default_rng(0)
    tokens, d = rng.integers(20, size=(6, 4)), rng.normal(size=(6, 4, 5))
    block = Lookups.of(tf.constant(tokens, tf.int32), tf.constant(d), 20)
    assert isinstance(block, Lookups)
    rows = np.zeros((6, 20, 5))
    for j in range(6):
        np.add.at(rows[j], tokens[j], d[j])
    rows = rows.reshape(6, -1)
    np.testing.assert_allclose(dense_rows(block), rows, atol=1e-12)
    few = tf.nest.map_structure(lambda t: t[:4], block)
    actual = inner_products([few], [block], tf.float64)
    np.testing.assert_allclose(actual, rows[:4] @ rows.T, atol=1e-12)
    assert isinstance(Lookups.of(block.tokens % 15, block.gradients, 15), Rows)


def test_cholesky_and_eigenvalues_agree(monkeypatch):
    model, x, y = make("convolution", num_examples=9)
    by_eigenvalues = GradientEngine(model).gram(x, y)
    expected = by_eigenvalues.logdet
    monkeypatch.setattr("infomcr_tf.gradients.gram_result.EIGENVALUES_UP_TO", 3)
    by_cholesky = GradientEngine(model).gram(x, y)
    assert by_cholesky.rank == 9
    np.testing.assert_allclose(by_cholesky.logdet, expected, rtol=1e-9)
    assert "eigenvalues" not in vars(by_cholesky)  # which are not computed
    again = [*range(9), 0]
    assert GradientEngine(model).gram(x[again], y[again]).rank == 9
    largest = largest_eigenvalue(by_cholesky.xi)
    np.testing.assert_allclose(largest, np.linalg.eigvalsh(by_eigenvalues.xi)[-1], rtol=1e-6)


def test_the_error_of_float32_products_is_estimated():
    # Near the truth: between a tenth and ten times what repeated products in float64 change.
    model, x, y = make("dense", num_examples=20)
    engine = GradientEngine(model)
    gram = engine.gram(x, y)
    assert 0 < gram.logdet_error < 1e-3
    engine64 = GradientEngine(model)
    engine64_gram = _all_in_float64(engine64, x, y)
    assert abs(gram.logdet - engine64_gram.logdet) < 10 * gram.logdet_error + 1e-9


def test_a_diagonal_that_is_too_small_is_found_and_corrected():
    # Cosines of 40 examples, whose diagonal in float32 lost 6e-8, and other entries half of it.
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 60)) + 1
    xi = rows @ rows.T
    lost = xi * (1 - 3e-8)
    lost[np.diag_indices(40)] *= 1 - 3e-8
    tiles = [slice(i, i + 10) for i in range(0, 40, 10)]
    errors = np.stack([[(lost - xi)[t, t], xi[t, t]] for t in tiles])
    norms = np.sqrt(np.diag(xi))
    rounding = logdet_errors(xi / np.outer(norms, norms), errors, tiles, 2.0**-24)
    _, true = np.linalg.slogdet(xi)
    _, before = np.linalg.slogdet(lost)
    lost[np.diag_indices(40)] /= 1 + rounding.shift
    _, after = np.linalg.slogdet(lost)
    assert abs(after - true) < 0.3 * abs(before - true)
    assert abs(after - true) < 2 * np.sqrt(rounding.variances.sum())
    # One sample says too little to correct by: the loss counts as the error.
    alone = logdet_errors(xi / np.outer(norms, norms), errors[:1], [slice(0, 40)], 2.0**-24)
    assert alone.shift == 0
    assert abs(before - true) < 3 * np.sqrt(alone.variances.sum())


def _all_in_float64(engine, x, y):
    original = gram_module.LOGDET_TOLERANCE
    gram_module.LOGDET_TOLERANCE = 0.0
    try:
        gram = engine.gram(x, y)
    finally:
        gram_module.LOGDET_TOLERANCE = original
    assert gram.logdet_error == 0.0
    return gram


def test_further_calls_do_not_trace_again():
    model, x, y = make("normalisations")
    counted = CountsCalls()
    model = keras.Sequential([keras.Input(model.input_shape[1:]), counted, *model.layers])
    first = gram_matrix(model, x, y)
    rows = per_example_jacobian(model, x, y)
    traced = counted.calls
    randomised(model, seed=1)
    assert not np.allclose(gram_matrix(model, x, y), first)
    per_example_jacobian(model, x[:3], y[:3])
    assert counted.calls == traced
    model.layers[1].trainable = False
    assert per_example_jacobian(model, x, y).shape[1] < rows.shape[1]
    assert counted.calls > traced


def test_many_models_are_no_retracing_that_is_warned_of(caplog):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)).astype("float32"), rng.integers(2, size=6)
    for _ in range(6):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        for _ in range(2):
            gram_matrix(model, x, y)
    assert not [record for record in caplog.records if "retracing" in record.getMessage()]


def test_a_changed_layer_is_traced_again():
    model, x, y = make("dense")
    gram_matrix(model, x, y)
    model.layers[0].activation = keras.activations.relu
    fresh = keras.models.clone_model(model)
    fresh.set_weights(model.get_weights())
    np.testing.assert_allclose(gram_matrix(model, x, y), gram_matrix(fresh, x, y), rtol=1e-5)


def test_a_dropped_model_is_dropped(tmp_path):
    model, x, y = make("dense")
    gram_matrix(model, x, y)
    model.save(tmp_path / "model.keras")  # what is kept with the model is no part of it
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(gram_matrix(loaded, x, y), gram_matrix(model, x, y), rtol=1e-6)
    dropped = weakref.ref(model)
    del model
    keras.backend.clear_session()
    gc.collect()
    assert dropped() is None


class CountsCalls(keras.layers.Layer):
    """Counts how often it is called from Python, which only tracing does."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def call(self, x):
        self.calls += 1
        return x


def test_a_repeated_example_is_singular_and_nothing_else_is():
    model, x, y = make("convolution", num_examples=6)
    gram = GradientEngine(model).gram(x, y)
    assert gram.rank == 6
    assert np.isfinite(gram.logdet)
    again = GradientEngine(model).gram(x[[0, 1, 2, 3, 4, 0]], y[[0, 1, 2, 3, 4, 0]])
    assert again.rank == 5
    assert again.logdet == -np.inf


def test_nearly_repeated_examples_are_not_singular():
    # The smallest eigenvalue is 1e-8 of the largest: out of reach of products in float32.
    model, x, y = make("dense", num_examples=4)
    x[1], y[1] = x[0] * (1 + 2e-4), y[0]
    gram = GradientEngine(model).gram(x, y)
    rows = reference.per_example_gradients(reference.float64_copy(model), x.astype(float), y)
    assert gram.rank == 4
    expected = np.linalg.slogdet(rows @ rows.T)[1]
    # J is known to some 1e-7 of its rows, and the two rows differ by some 1e-4 of theirs.
    np.testing.assert_allclose(gram.logdet, expected, atol=0.02)


def test_dead_network_has_rank_zero():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, activation="relu"), keras.layers.Dense(2)]
    )
    model.layers[0].set_weights([np.zeros((4, 3)), -np.ones(3)])
    model.layers[1].trainable = False
    gram = GradientEngine(model).gram(np.ones((3, 4)), [0, 1, 0])
    assert gram.rank == 0
    assert gram.logdet == -np.inf
    np.testing.assert_array_equal(gram.xi, 0)


def test_excluded_examples_are_left_out():
    model, x, y = make("convolution", num_examples=6)
    full = GradientEngine(model).gram(x, y)
    gram = GradientEngine(model, equalize_loss=0.1).gram(x, y)
    np.testing.assert_array_equal(gram.kept, np.flatnonzero(full.correct))
    np.testing.assert_array_equal(gram.excluded, np.flatnonzero(~full.correct))
    assert gram.cosines.shape == (len(gram.kept),) * 2
    np.testing.assert_allclose(gram.losses, full.losses)


@pytest.mark.slow
def test_devices_agree():
    model, x, y = make("shared layers")
    expected = gram_matrix(model, x, y)
    for device in tf.config.list_logical_devices("CPU")[1:3]:
        actual = gram_matrix(model, x, y, device=device.name)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * expected.max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((0, 10, 4))}, "at least one example"),
        ({"x": np.zeros((5, 9, 4))}, r"must have the shape of the model's input"),
        ({"x": np.full((5, 10, 4), np.nan)}, "`x` must be finite"),
        ({"x": np.full((5, 10, 4), "a")}, "`x` must hold numbers"),
        ({"y": [0, 1, 2, 3, 0]}, "0 to 2. Received: 3 at index 3"),
        ({"y": [0, -1, 2, 0, 0]}, "0 to 2. Received: -1 at index 1"),
        ({"y": [0, 1]}, "the same number of examples"),
        ({"y": [0.5] * 5}, "must be integers"),
        ({"y": np.zeros((5, 4))}, "a column for each of the model's 3 classes"),
        ({"y": np.zeros((5, 3, 2))}, "labels \\[n\\] or one-hot"),
    ],
)
def test_bad_examples_are_refused(change, message):
    model, x, y = make("dense")
    arguments = {"x": x, "y": y} | change
    with pytest.raises(ValueError, match=message) as error:
        check_examples(model, **arguments)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=message):
        gram_matrix(model, **arguments)


@functools.cache
def dense():
    return make("dense")[0]


@pytest.mark.parametrize(
    ("model", "settings", "error", "message"),
    [
        (dense, {"method": "magic"}, ValueError, "`method` must be one of"),
        (dense, {"batch_norm": "none"}, ValueError, "`batch_norm` must be one of"),
        (dense, {"chunk_size": 0}, ValueError, "`chunk_size` must be an integer >= 1"),
        (dense, {"max_memory_bytes": 0}, ValueError, "`max_memory_bytes` must be"),
        (lambda: "model", {}, TypeError, "`model` must be a keras.Model"),
        (keras.Sequential, {}, ValueError, "`model` must be built"),
    ],
)
def test_bad_settings_are_refused(model, settings, error, message):
    with pytest.raises(error, match=message):
        GradientEngine(model(), **settings)


def test_models_that_give_no_logits_are_refused():
    inputs = keras.Input((4,))
    probabilities = keras.ops.softmax(keras.layers.Dense(3)(inputs)) * 1.0
    x, y = np.random.default_rng(0).normal(size=(5, 4)), [0, 1, 2, 0, 1]
    with pytest.raises(ValueError, match="gives probabilities"):
        gram_matrix(keras.Model(inputs, probabilities), x, y)
    with pytest.raises(ValueError, match="K >= 2 classes"):
        gram_matrix(keras.Model(inputs, keras.layers.Dense(1)(inputs)), x, [0] * 5)
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    model.layers[-1].set_weights([np.full((4, 3), np.nan), np.zeros(3)])
    with pytest.raises(ValueError, match="NaN or infinite logits"):
        gram_matrix(model, x, y)
