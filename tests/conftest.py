"""Fixtures that every area of the tests may use."""

import os
import signal
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault(
    "TF_ENABLE_ONEDNN_OPTS", "1"
)  # as the commands do, whose numbers are compared

import pytest
import tensorflow as tf

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# Logical devices can only be made before TensorFlow starts, so all tests have them.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)


def pytest_collection_modifyitems(items):
    """Skips tests marked `gpu` where TensorFlow sees none."""
    if not tf.config.list_physical_devices("GPU"):
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="TensorFlow sees no GPU"))


@pytest.fixture(scope="session")
def root_dir() -> Path:
    """The checkout's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The optional folder of real data and reference numbers beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the optional folder of real data and reference numbers is not there")
    return SHARED


@pytest.fixture
def usual_signals():
    """SIGINT and SIGTERM as in a process of one's own: a shell's background jobs ignore SIGINT."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def tiny():
    """An architecture of 90 parameters that another package might register, for one test."""
    import keras

    from infomcr_tf.models import ARCHITECTURES, Recipe, register_architecture
    from infomcr_tf.models.layers import Layers, image_input

    @register_architecture(
        Recipe(
            batch_size=20,
            learning_rate=0.1,
            epochs=4,
            drops=((0.5, 0.1),),
            nesterov=True,
            weight_decay=1e-4,
        )
    )
    def tiny(input_shape=(8, 8, 1), num_classes=10, *, weight_decay=0.0, seed=None):
        inputs = x = image_input(input_shape, num_classes, min_size=4)
        layers = Layers(weight_decay, seed)
        x = layers.relu(layers.conv(x, 4, 3, use_bias=True, name="conv1"), name="conv1_relu")
        return keras.Model(inputs, layers.classifier(x, num_classes), name="tiny")

    yield "tiny"
    ARCHITECTURES.unregister("tiny")


@pytest.fixture(scope="session")
def small_cnn():
    """The name of an architecture that is trained as `cnn` is, with two of its six convolutions."""
    import keras

    from infomcr_tf.models import ARCHITECTURES, register_architecture
    from infomcr_tf.models.layers import Layers, image_input

    @register_architecture(ARCHITECTURES["cnn"].recipe)
    def small_cnn(input_shape=(8, 8, 1), num_classes=10, *, weight_decay=0.0, seed=None):
        inputs = x = image_input(input_shape, num_classes, min_size=4)
        layers = Layers(weight_decay, seed)
        for i, filters in enumerate((16, 32), start=1):
            x = layers.conv(x, filters, 3, use_bias=True, name=f"conv{i}")
            x = layers.relu(x, name=f"conv{i}_relu")
        return keras.Model(inputs, layers.classifier(x, num_classes), name="small_cnn")

    yield "small_cnn"
    ARCHITECTURES.unregister("small_cnn")
