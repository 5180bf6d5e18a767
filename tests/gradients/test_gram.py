"""The Gram matrix: architectures, singular cases, memory, devices, errors."""

import functools
import sys

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from gradients.cases import make, randomised

from infomcr_tf import models
from infomcr_tf.characterization import GradientEngine, check_examples, gram_matrix
from infomcr_tf.gradients.blocks import OuterProducts, Rows, inner_products

ARCHITECTURES = {
    "cnn": (models.cnn, (8, 8, 3)),
    "resnet20": (models.resnet20, (16, 16, 3)),
}
SLOW = {
    "wrn28_2": (models.wrn28_2, (8, 8, 3)),
    "densenet_bc_100_12": (models.densenet_bc_100_12, (8, 8, 3)),
    "wrn18_1_5": (models.wrn18_1_5, (32, 32, 3)),
}


def architecture(name, num_classes=4, num_examples=6):
    build, shape = (ARCHITECTURES | SLOW)[name]
    keras.utils.set_random_seed(1)
    model = build(input_shape=shape, num_classes=num_classes)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_examples, *shape)).astype(np.float32)
    return model, x, rng.integers(num_classes, size=num_examples)


@pytest.mark.parametrize(
    "name", [*ARCHITECTURES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_methods_agree_on_the_architectures(name):
    model, x, y = architecture(name)
    engine = GradientEngine(model)
    auto = engine.gram(x, y)
    assert engine.without_rule == []
    jacobian = GradientEngine(model, method="jacobian").gram(x, y)
    np.testing.assert_allclose(auto.xi, jacobian.xi, rtol=0, atol=1e-5 * jacobian.xi.max())
    np.testing.assert_allclose(auto.logdet, jacobian.logdet, atol=1e-3)


def test_grouped_and_sliced_convolutions_agree(monkeypatch):
    convolution = sys.modules["infomcr_tf.gradients.layer_rules.convolution"]
    model, x, y = make("convolution of large maps")
    as_it_is = gram_matrix(model, x, y)
    monkeypatch.setattr(convolution, "_has_grouped_gradients", lambda: False)
    sliced = gram_matrix(model, x, y)
    np.testing.assert_allclose(as_it_is, sliced, rtol=0, atol=1e-5 * sliced.max())


def test_memory_bound_makes_passes_and_not_another_result():
    model, x, y = make("convolution", num_examples=7)
    expected = gram_matrix(model, x, y)
    for method in ("auto", "one_example", "jacobian"):
        engine = GradientEngine(model, method=method, max_memory_bytes=20_000)
        actual = engine.gram(x, y).xi
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * expected.max())
        tensors, labels, passes = engine._prepare(x, y.astype(np.int64))
        assert len(passes) > 1
        held = [
            sum(np.asarray(t).nbytes for t in tf.nest.flatten(blocks))
            for _, blocks in (engine._run(part, tensors, labels) for part in passes)
        ]
        # Half of the bound, or the rows of one variable where these need more.
        assert max(held) <= max(20_000 / 2, *(7 * w.nbytes for w in model.get_weights()))


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
    u, v = rng.normal(size=(2, 6, 3, 700)), rng.normal(size=(6, 3, 50))
    factors = OuterProducts(tf.constant(u[0]), tf.constant(v))
    rows = np.einsum("nsp,nsq->npq", u[0], v).reshape(6, -1)
    expected = rows @ rows.T
    for blocks in ([factors], [Rows((tf.constant(rows),))], [Rows((rows[:, :9], rows[:, 9:]))]):
        blocks = [b if b is factors else Rows(tuple(map(tf.constant, b.parts))) for b in blocks]
        actual = inner_products(blocks, tf.float64)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10 * expected.max())
    np.testing.assert_allclose(np.concatenate(list(factors.slices()), axis=1), rows, atol=1e-10)


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


def test_one_trace_serves_other_weights():
    model, x, y = make("convolution")
    engine = GradientEngine(model)
    before = engine.gram(x, y)
    functions = dict(engine._plan._functions)
    randomised(model, seed=5)
    after = engine.gram(x, y)
    assert functions == engine._plan._functions
    np.testing.assert_allclose(after.xi, gram_matrix(model, x, y), rtol=1e-6)
    assert not np.allclose(before.xi, after.xi)


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
