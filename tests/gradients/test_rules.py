"""Per-example gradients by every method, against float64 gradients one example at a time."""

import keras
import numpy as np
import pytest
import reference
from gradients.cases import CASES, WITH_RULES, floatx, make
from parameters import all_but, some

from infomcr_tf.gradients import GradientEngine, register_layer_rule


def logits_model(model):
    """What the slow reference differentiates: the same model without its softmax."""
    last = model.layers[-1]
    if isinstance(last, keras.layers.Softmax):
        return keras.Model(model.input, last.input)
    if getattr(last, "activation", None) is keras.activations.softmax:
        config = last.get_config() | {"activation": "linear", "name": "logits"}
        linear = keras.layers.Dense.from_config(config)
        copy = keras.Model(model.input, linear(last.input))
        linear.kernel.assign(last.kernel)
        linear.bias.assign(last.bias)
        return copy
    return model


class OneAtATime:
    """Indexes trees of inputs as the reference indexes arrays."""

    def __init__(self, x):
        self.x = x

    def __getitem__(self, part):
        return keras.tree.map_structure(lambda leaf: leaf[part], self.x)


def truth(name):
    with floatx("float64"):
        model, x, y = make(name, "float64")
        return reference.per_example_gradients(logits_model(model), OneAtATime(x), y)


SLOW = (
    # Unrolled, these are graphs of thousands of operations, which take TensorFlow most of a minute.
    "masked recurrent",
    "stacked cells",
    "recurrent",
    "recurrent convolution",
    "recurrent convolution in one dimension",
    "recurrent convolution in three dimensions",
    # The rules of these are those of other cases: a cell, attention, fewer or more dimensions.
    "layers at every step",
    "transformer",
    "transposed convolution of series",
    "transposed convolution of volumes",
    "separable convolution of series",
    "a list of inputs",
)
# Keras computes a LoRA embedding in a float64 model with a step in float32.
TOLERANCE = {"LoRA": 1e-6}


@pytest.mark.filterwarnings("ignore:The layers")
@pytest.mark.parametrize("name", all_but(CASES, SLOW))
def test_rows_in_float64_by_rules_exactly_where_there_are_any(name):
    model, x, y = make(name, "float64")
    with floatx("float64"):
        engine = GradientEngine(model)
        blocks = sorted(engine.row_blocks(x, y), key=lambda block: block[0].start)
    actual = np.concatenate([np.exp(scale)[:, None] * rows for _, rows, scale in blocks], axis=1)
    expected = truth(name)
    assert actual.shape == expected.shape
    # Thousands of roundings of 1e-16.
    tolerance = TOLERANCE.get(name, 1e-11) * np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)
    assert (engine.without_rule == []) == (name in WITH_RULES)


@pytest.mark.parametrize("method", ["auto", "one_example", "jacobian"])
@pytest.mark.parametrize(
    "name", some(("shared layers", "a dict of inputs", "normalisations"), ["a dict of inputs"])
)
def test_methods_agree_in_float32(name, method):
    model, x, y = make(name)
    rows = truth(name)
    expected = rows @ rows.T
    actual = GradientEngine(model, method=method).gram(x, y)
    np.testing.assert_allclose(actual.xi, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_what_has_no_rule_is_said_once():
    model, x, y = make("a loop")
    engine = GradientEngine(model)
    with pytest.warns(UserWarning, match=r"13.99% of .* about \d+ times slower") as said:
        engine.gram(x, y)
        engine.gram(x, y)
    assert len(said) == 1
    assert all("looped" in path for path in engine.without_rule)


class Squared(keras.layers.Layer):
    """Scales its input by the square of a vector."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x):
        return x * self.scale**2


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr("infomcr_tf.gradients.traced_gradients.LAYER_RULES", rules := {})
    monkeypatch.setattr("infomcr_tf.gradients.layer_rules.LAYER_RULES", rules)


def squared_network():
    keras.utils.set_random_seed(0)
    squared = Squared()
    inputs = keras.Input((4, 5))
    h = squared(keras.ops.tanh(squared(inputs)))  # called twice
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(h)))
    rng = np.random.default_rng(0)
    return model, rng.normal(size=(6, 4, 5)).astype("float32"), rng.integers(3, size=6)


@pytest.mark.parametrize("factor", [2.0, 2.1])
def test_a_registered_rule_is_used_if_it_is_right(registry, factor):
    called = []

    def rule(layer, calls):
        called.append(len(calls))
        rows = sum(factor * layer.scale * keras.ops.sum(x * d, axis=1) for x, d in calls)
        return [(layer.scale, rows)]

    assert register_layer_rule(Squared, rule) is rule
    model, x, y = squared_network()
    engine = GradientEngine(model)
    if factor == 2.0:
        actual = engine.gram(x, y)
    else:
        with pytest.warns(UserWarning, match="rule registered for Squared does not agree"):
            actual = engine.gram(x, y)
    assert called == [2]
    assert engine.without_rule == []
    rows = reference.per_example_gradients(model, x, y)
    expected = rows @ rows.T
    np.testing.assert_allclose(actual.xi, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((5, print), "`layer_class` must be"), ((Squared, "rule"), "`rule` must be a function")],
)
def test_what_is_no_rule_is_not_registered(arguments, message):
    with pytest.raises(TypeError, match=message):
        register_layer_rule(*arguments)


def test_mixing_examples_is_refused():
    class Centred(keras.layers.Layer):
        def call(self, x):
            return x - keras.ops.mean(x, axis=0, keepdims=True)

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(6), Centred(), keras.layers.Dense(3)]
    )
    x = np.random.default_rng(0).normal(size=(4, 5))
    with pytest.raises(ValueError, match="no per-example gradients"):
        GradientEngine(model).gram(x, [0, 1, 2, 0])
