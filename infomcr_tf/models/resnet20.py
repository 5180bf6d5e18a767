"""ResNet-20 for CIFAR: He et al. (2016), "Deep Residual Learning for Image Recognition", 4.2."""

from __future__ import annotations

import keras

from infomcr_tf.models.architecture import Recipe, register_architecture
from infomcr_tf.models.layers import Layers, image_input


# He et al. 2016, section 4.2: divided by 10 at 32k and 48k of 64k iterations.
@register_architecture(
    Recipe(
        batch_size=128,
        learning_rate=0.1,
        steps=64_000,
        drops=((0.5, 0.1), (0.75, 0.1)),
        nesterov=False,
        weight_decay=1e-4,
    )
)
def resnet20(
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    weight_decay: float = 0.0,
    seed: int | None = None,
) -> keras.Model:
    """ResNet-20: three stages of three residual blocks with 16, 32 and 64 filters.

    Post-activation blocks (conv-BN-ReLU-conv-BN, add, ReLU). All shortcuts are without parameters
    (option A): where the width doubles, every second pixel, with zeros for the new channels.
    269,722 parameters for CIFAR-10.

    Args:
        input_shape: (height, width, channels), at least 4 x 4 pixels; `None` for any height, width.
        num_classes: K.
        weight_decay: wd: adds (wd/2) ||w||^2 over all trainable weights to `model.losses`.
        seed: makes the initial weights reproducible.

    Returns:
        A functional model from images [B, H, W, C] to logits [B, K].

    Raises:
        ValueError: if an argument is out of range.
    """
    inputs = image_input(input_shape, num_classes, min_size=4)
    layers = Layers(weight_decay, seed)
    x = layers.conv(inputs, 16, 3, name="stem_conv")
    x = layers.batch_norm_relu(x, name="stem")
    for stage, filters in enumerate((16, 32, 64), start=1):
        for block in (1, 2, 3):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _block(layers, x, filters, strides, name=f"stage{stage}_block{block}")
    return keras.Model(inputs, layers.classifier(x, num_classes), name="resnet20")


def _block(
    layers: Layers, x: keras.KerasTensor, filters: int, strides: int, *, name: str
) -> keras.KerasTensor:
    shortcut = x if strides == 1 else _option_a(x, filters, strides, name=f"{name}_shortcut")
    x = layers.conv(x, filters, 3, strides=strides, name=f"{name}_conv1")
    x = layers.batch_norm_relu(x, name=f"{name}_conv1")
    x = layers.conv(x, filters, 3, name=f"{name}_conv2")
    x = layers.batch_norm(x, name=f"{name}_conv2_bn")
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.relu(x, name=f"{name}_relu")


def _option_a(x: keras.KerasTensor, filters: int, strides: int, *, name: str) -> keras.KerasTensor:
    # Pooling over one pixel is the strided slice x[:, ::2, ::2] as a layer with a name.
    new_channels = filters - x.shape[-1]
    x = keras.layers.AveragePooling2D(1, strides=strides, name=name)(x)
    return keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, new_channels)))
