"""The five architectures of the paper: plain functional Keras models that end in logits."""

from collections.abc import Callable

import keras

from infomcr_tf.models.cnn import cnn
from infomcr_tf.models.densenet_bc_100_12 import densenet_bc_100_12
from infomcr_tf.models.resnet20 import resnet20
from infomcr_tf.models.wrn18_1_5 import wrn18_1_5
from infomcr_tf.models.wrn28_2 import wrn28_2

ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {
    "cnn": cnn,
    "resnet20": resnet20,
    "wrn28_2": wrn28_2,
    "densenet_bc_100_12": densenet_bc_100_12,
    "wrn18_1_5": wrn18_1_5,
}

__all__ = [
    "ARCHITECTURES",
    "cnn",
    "densenet_bc_100_12",
    "resnet20",
    "wrn18_1_5",
    "wrn28_2",
]
