"""The five architectures of the paper: plain functional Keras models that end in logits."""

from infomcr_tf.models.architecture import (
    ARCHITECTURES,
    Architecture,
    Recipe,
    register_architecture,
)

# In the order in which they are listed.
from infomcr_tf.models.cnn import cnn  # isort: skip
from infomcr_tf.models.resnet20 import resnet20  # isort: skip
from infomcr_tf.models.wrn28_2 import wrn28_2  # isort: skip
from infomcr_tf.models.densenet_bc_100_12 import densenet_bc_100_12  # isort: skip
from infomcr_tf.models.wrn18_1_5 import wrn18_1_5  # isort: skip

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Recipe",
    "cnn",
    "densenet_bc_100_12",
    "register_architecture",
    "resnet20",
    "wrn18_1_5",
    "wrn28_2",
]
