"""Saving, reloading in a fresh process, and deploying the wrapped model alone."""

import importlib
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from infomcr_tf.regularizer import FisherRegularizedModel, SharpnessAwareModel

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RELOAD = """
import json, sys
import keras, numpy as np
if sys.argv[1] == "wrapper":
    import infomcr_tf.regularizer
model = keras.saving.load_model(sys.argv[2], compile=sys.argv[1] == "wrapper")
data = np.load(sys.argv[3])
out = {"class": type(model).__name__, "y": model.predict(data["x"], verbose=0).tolist()}
out["package"] = [m for m in sys.modules if m.startswith("infomcr_tf")]
if sys.argv[1] == "wrapper":
    config = model.get_config()
    out["config"] = {k: v for k, v in config.items() if k != "model"}
    out["beta"] = float(model.beta.numpy())
    model.fit(data["x"], data["y"], batch_size=12, shuffle=False, verbose=0)
    out["weights"] = [w.tolist() for w in model.model.get_weights()]
print(json.dumps(out))
"""


def in_fresh_process(path, *arguments, script=RELOAD):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def trained(make_network, images, train, tmp_path):
    x, y = images
    np.savez(tmp_path / "data.npz", x=x, y=y)
    wrapper = train(
        make_network(batch_norm=True),
        x,
        y,
        num_sub_batches=4,
        alpha=1e-3,
        beta=3.0,
        every=2,
        fit={"batch_size": 12},
    )
    wrapper.beta.assign(2.5)
    return wrapper


def test_wrapper_goes_on_in_a_fresh_process(trained, images, tmp_path, root_dir):
    """Predictions, arguments, beta, the optimizer's state and the compiled loss come back."""
    x, y = images
    trained.save(tmp_path / "wrapper.keras")
    found = in_fresh_process(root_dir, "wrapper", tmp_path / "wrapper.keras", tmp_path / "data.npz")
    assert found["class"] == "FisherRegularizedModel"
    np.testing.assert_allclose(found["y"], trained.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    expected = {k: v for k, v in trained.get_config().items() if k != "model"}
    assert found["config"] == expected
    assert found["beta"] == 2.5
    trained.fit(x, y, batch_size=12, shuffle=False, verbose=0)
    for a, b in zip(found["weights"], trained.model.get_weights(), strict=True):
        # float32, and a penalty whose difference keeps 1e-7 / alpha of itself
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_wrapped_model_needs_nothing_of_this_package(trained, images, tmp_path, root_dir):
    trained.model.save(tmp_path / "plain.keras")
    found = in_fresh_process(root_dir, "plain", tmp_path / "plain.keras", tmp_path / "data.npz")
    assert found["class"] == "Functional"
    assert found["package"] == []
    expected = trained.predict(images[0], verbose=0)
    np.testing.assert_allclose(found["y"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda model: FisherRegularizedModel(
            model,
            alpha=2e-4,
            beta=7.0,
            num_sub_batches=2,
            data_term="sub_batches",
            estimator="hessian_vector",
            direction="ascent",
            every=3,
            fraction=0.5,
            fuse_plain_steps=True,
            allow_tf32=True,
            name="wrapped",
        ),
        lambda model: SharpnessAwareModel(model, rho=0.1, beta=2.0, every=2),
    ],
)
def test_config_holds_every_argument(make_network, make):
    wrapper = make(make_network())
    copy = type(wrapper).from_config(wrapper.get_config())
    assert copy.perturbation == wrapper.perturbation
    names = (
        "num_sub_batches",
        "data_term",
        "every",
        "fraction",
        "fuse_plain_steps",
        "allow_tf32",
        "name",
    )
    assert [getattr(copy, n) for n in names] == [getattr(wrapper, n) for n in names]
    assert float(copy.beta.numpy()) == float(wrapper.beta.numpy())


def test_weights_alone(trained, make_network, tmp_path):
    trained.save_weights(tmp_path / "w.weights.h5")
    other = FisherRegularizedModel(make_network(batch_norm=True))
    other.load_weights(tmp_path / "w.weights.h5")
    for a, b in zip(trained.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


OWN_CLASS = """
import keras

@keras.saving.register_keras_serializable(package="test_saving")
class Subclassed(keras.Model):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(units)

    def call(self, x):
        return self.dense(self.flatten(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}
"""
LOAD_ALL = """
import json, sys
import numpy as np
import tensorflow as tf

folder, x = sys.argv[1], np.load(sys.argv[2])["x"]
served = {}
for name in ("functional", "subclassed"):
    # Its variables live only as long as what `load` returns.
    loaded = tf.saved_model.load(f"{folder}/{name}")
    served[name] = loaded.serve(x).numpy().tolist()
package = [m for m in sys.modules if m.startswith(("infomcr_tf", "own_class"))]

import infomcr_tf.regularizer
import keras, own_class

for name in ("wrapper", "plain"):
    model = keras.saving.load_model(f"{folder}/{name}.keras")
    served[name] = model.predict(x, verbose=0).tolist()
    served[name + " class"] = type(model).__name__
    model.fit(x, np.arange(len(x)) % 4, batch_size=12, verbose=0)
print(json.dumps({"served": served, "package": package}))
"""


@pytest.mark.slow
def test_subclassed_and_exported_models_in_a_fresh_process(
    trained, images, train, tmp_path, root_dir, monkeypatch
):
    """The wrapper and the wrapped model are saved, and the wrapper exported, after `fit`."""
    x, y = images
    (tmp_path / "own_class.py").write_text(OWN_CLASS)
    monkeypatch.syspath_prepend(tmp_path)
    own_class = importlib.import_module("own_class")
    other = train(own_class.Subclassed(), x, y, num_sub_batches=4, fit={"batch_size": 12})
    other.model.compile("sgd", LOSS)
    other.save(tmp_path / "wrapper.keras")
    other.model.save(tmp_path / "plain.keras")
    trained.export(tmp_path / "functional", verbose=False)
    other.export(tmp_path / "subclassed", verbose=False)
    path = os.pathsep.join(map(str, (root_dir, tmp_path)))
    found = in_fresh_process(path, tmp_path, tmp_path / "data.npz", script=LOAD_ALL)
    assert found["package"] == []  # an exported model needs TensorFlow alone
    served = found["served"]
    assert served.pop("wrapper class") == "FisherRegularizedModel"
    assert served.pop("plain class") == "Subclassed"
    for name, outputs in served.items():
        expected = (trained if name == "functional" else other).predict(x, verbose=0)
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6, err_msg=name)
