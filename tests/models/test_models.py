"""Counts, shapes, weight decay, seeds, saving, bad arguments."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from parameters import all_but, some

from infomcr_tf import models

NAMES = list(models.ARCHITECTURES)
DEEP = ("wrn28_2", "densenet_bc_100_12", "wrn18_1_5")  # seconds to build


@pytest.mark.parametrize(
    ("name", "num_classes", "count"),
    [
        ("cnn", 10, 815_434),
        ("cnn", 100, 815_434 + 90 * 193),
        ("resnet20", 10, 269_722),
        pytest.param("resnet20", 100, 269_722 + 90 * 65, marks=pytest.mark.slow),
        ("wrn28_2", 10, 1_467_610),
        pytest.param("wrn28_2", 100, 1_467_610 + 90 * 129, marks=pytest.mark.slow),
        ("densenet_bc_100_12", 10, 769_162),
        pytest.param("densenet_bc_100_12", 100, 800_032, marks=pytest.mark.slow),
        ("wrn18_1_5", 1000, 25_875_816),
    ],
)
def test_number_of_trainable_parameters(build, name, num_classes, count):
    model = build(name, num_classes)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_variables) == count


@pytest.mark.parametrize("name", NAMES)
def test_defaults(name):
    parameters = models.ARCHITECTURES[name].build.__kwdefaults__
    assert parameters == {"weight_decay": 0.0, "seed": None}
    shape, classes = models.ARCHITECTURES[name].build.__defaults__
    assert (shape, classes) == (((114, 114, 3), 1000) if name == "wrn18_1_5" else ((32, 32, 3), 10))


@pytest.mark.parametrize("name", all_but(NAMES, DEEP[:2]))
def test_any_input_size(name):
    """One model for every size, the smallest included; sizes need not be even."""
    model = models.ARCHITECTURES[name]((None, None, 1), 3)
    smallest = 8 if name == "wrn18_1_5" else 4
    for height, width in [(smallest, smallest), (8, 8), (33, 17)]:
        logits = model(np.ones((2, height, width, 1), "float32"))
        assert logits.shape == (2, 3)
        assert np.isfinite(logits).all()


@pytest.mark.parametrize("name", all_but(NAMES, DEEP))
def test_digits_sized_images(name):
    assert models.ARCHITECTURES[name]((8, 8, 1), 10).output_shape == (None, 10)


@pytest.mark.parametrize("name", all_but(NAMES, DEEP))
def test_weight_decay_is_half_wd_times_the_squared_norm_of_all_weights(name):
    wd = 3e-3
    model = models.ARCHITECTURES[name]((8, 8, 3), 5, weight_decay=wd, seed=0)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:  # biases, gamma and beta must count too
        variable.assign(rng.normal(size=variable.shape))
    with tf.GradientTape() as tape:
        penalty = tf.add_n(model.losses)
    gradients = tape.gradient(penalty, [v.value for v in model.trainable_variables])
    weights = [np.asarray(v, np.float64) for v in model.trainable_variables]
    assert len(model.losses) == len(weights)
    # float32 sums of positive terms: pairwise, so a few roundings of 6e-8; and one per gradient.
    np.testing.assert_allclose(penalty, wd / 2 * sum((w**2).sum() for w in weights), rtol=1e-5)
    for gradient, weight in zip(gradients, weights, strict=True):
        np.testing.assert_allclose(gradient, wd * weight, rtol=1e-6)


@pytest.mark.parametrize("name", all_but(NAMES, DEEP))
def test_no_weight_decay_means_no_losses(build, name):
    assert not build(name).losses


@pytest.mark.parametrize("name", some(["cnn", "resnet20", "wrn28_2"], ["resnet20"]))
def test_seed_fixes_the_weights(name):
    def weights(seed):
        return models.ARCHITECTURES[name]((8, 8, 3), seed=seed).get_weights()

    first, again, other = weights(7), weights(7), weights(8)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [i for i, w in enumerate(first) if w.ndim > 1]
    assert all((first[i] != other[i]).any() for i in kernels)
    # Layers of one shape do not share their draw.
    for i in kernels:
        assert not any(np.array_equal(first[i], first[j]) for j in kernels if j < i)


LOAD = """
import sys
sys.modules["infomcr_tf"] = None  # an import of it would fail
import keras, numpy as np
for name in sys.argv[2:]:
    data = np.load(f"{sys.argv[1]}/{name}.npz")
    model = keras.models.load_model(f"{sys.argv[1]}/{name}.keras", safe_mode=True)
    # The same operations on the same machine; threads may change the order of the sums.
    np.testing.assert_allclose(model(data["x"]), data["logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sum(map(float, model.losses)), data["penalty"], rtol=1e-6)
print("loaded", len(sys.argv[2:]))
"""


@pytest.mark.slow
def test_saved_models_load_in_a_fresh_process_without_the_package(tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype("float32")
    for name in NAMES:
        model = models.ARCHITECTURES[name]((8, 8, 3), 7, weight_decay=1e-3, seed=2)
        model(x, training=True)  # moving averages that are not the initial ones
        penalty = sum(map(float, model.losses))
        np.savez(tmp_path / f"{name}.npz", x=x, logits=model(x), penalty=penalty)
        model.save(tmp_path / f"{name}.keras")
    result = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, str(tmp_path), *NAMES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "loaded 5"


def test_models_are_plain_functional_models_of_keras_own_layers(build):
    for name in NAMES:
        model = build(name)
        assert type(model) is keras.Model or type(model).__module__.startswith("keras.")
        assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (32, 32)}, r"`input_shape` must be \(height, width, channels\)"),
        ({"input_shape": 32}, "`input_shape` must be"),
        ({"input_shape": (32.0, 32, 3)}, "`input_shape` must be"),
        ({"input_shape": (32, 32, None)}, "`input_shape` must be"),
        ({"input_shape": (32, 32, 0)}, "`input_shape` must be"),
        ({"input_shape": (3, 32, 3)}, r"at least \d x \d pixels.*Received.*\(3, 32, 3\)"),
        ({"num_classes": 1}, "`num_classes` must be an integer >= 2. Received: num_classes=1"),
        ({"num_classes": 10.0}, "`num_classes` must be an integer"),
        ({"num_classes": True}, "`num_classes` must be an integer"),
        ({"weight_decay": -1e-4}, "`weight_decay` must be a finite number >= 0"),
        ({"weight_decay": float("nan")}, "`weight_decay` must be"),
        ({"weight_decay": "1e-4"}, "`weight_decay` must be"),
        ({"seed": -1}, "`seed` must be an integer >= 0. Received: seed=-1"),
        ({"seed": 0.5}, "`seed` must be an integer"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        models.ARCHITECTURES[name](**arguments)
    assert "\n" not in str(error.value)
