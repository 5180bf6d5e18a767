"""Saving, reloading in a fresh process, and deploying the wrapped model alone."""

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


def in_fresh_process(root, *arguments):
    command = [sys.executable, "-c", RELOAD, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def trained(make_network, images, train, tmp_path):
    x, y = images
    np.savez(tmp_path / "data.npz", x=x, y=y)
    wrapper = train(
        make_network(batch_norm=True), x, y, num_sub_batches=4, alpha=1e-3, beta=3.0, every=2,
        fit={"batch_size": 12},
    )  # fmt: skip
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
            model, alpha=2e-4, beta=7.0, num_sub_batches=2, data_term="sub_batches",
            estimator="hessian_vector", direction="ascent", every=3, fraction=0.5,
            fuse_plain_steps=True, allow_tf32=True,
            name="wrapped",
        ),
        lambda model: SharpnessAwareModel(model, rho=0.1, beta=2.0, every=2),
    ],
)  # fmt: skip
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


@keras.saving.register_keras_serializable(package="test_saving")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(4)

    def call(self, x):
        return self.dense(self.flatten(x))


def test_subclassed_model(images, train, tmp_path):
    """What the wrapper and the wrapped model predict comes back from the file of either."""
    x, y = images
    trained = train(Subclassed(), x, y, num_sub_batches=4, fit={"batch_size": 12})
    expected = trained.predict(x, verbose=0)
    for number, model in enumerate((trained, trained.model)):
        model.save(tmp_path / f"{number}.keras")
        found = keras.saving.load_model(tmp_path / f"{number}.keras")
        assert type(found) is type(model)
        np.testing.assert_allclose(found.predict(x, verbose=0), expected, rtol=1e-6)
