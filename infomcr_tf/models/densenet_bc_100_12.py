"""DenseNet-BC, L = 100, k = 12: Huang et al. (2017), "Densely Connected Convolutional Networks"."""

from __future__ import annotations

import keras

from infomcr_tf.models.architecture import Recipe, register_architecture
from infomcr_tf.models.layers import Layers, image_input

_GROWTH = 12
_BOTTLENECK = 4 * _GROWTH


# Huang et al. 2017, section 4.2: divided by 10 at 50 % and 75 % of 300 epochs.
@register_architecture(
    Recipe(
        batch_size=64,
        learning_rate=0.1,
        epochs=300,
        drops=((0.5, 0.1), (0.75, 0.1)),
        nesterov=True,
        weight_decay=1e-4,
    )
)
def densenet_bc_100_12(
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    weight_decay: float = 0.0,
    seed: int | None = None,
) -> keras.Model:
    """DenseNet-BC with 100 layers and growth rate k = 12: three dense blocks of 16 layers.

    Each dense layer is BN-ReLU-conv 1x1 (4k)-BN-ReLU-conv 3x3 (k), concatenated to its input.
    Between the blocks BN-ReLU-conv 1x1 that halves the channels (compression 0.5) and 2x2 average
    pooling; a last BN-ReLU before global pooling. 769,162 parameters for CIFAR-10, 800,032 for
    CIFAR-100.

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
    x = layers.conv(inputs, 2 * _GROWTH, 3, name="stem_conv")
    for block in (1, 2, 3):
        for layer in range(1, 17):
            x = _dense_layer(layers, x, name=f"block{block}_layer{layer}")
        if block < 3:
            x = _transition(layers, x, name=f"transition{block}")
    x = layers.batch_norm_relu(x, name="last")
    return keras.Model(inputs, layers.classifier(x, num_classes), name="densenet_bc_100_12")


def _dense_layer(layers: Layers, x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
    new = layers.batch_norm_relu(x, name=f"{name}_conv1")
    new = layers.conv(new, _BOTTLENECK, 1, name=f"{name}_conv1")
    new = layers.batch_norm_relu(new, name=f"{name}_conv2")
    new = layers.conv(new, _GROWTH, 3, name=f"{name}_conv2")
    return keras.layers.Concatenate(name=f"{name}_concat")([x, new])


def _transition(layers: Layers, x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
    channels = x.shape[-1] // 2
    x = layers.batch_norm_relu(x, name=f"{name}_conv")
    x = layers.conv(x, channels, 1, name=f"{name}_conv")
    return keras.layers.AveragePooling2D(2, name=f"{name}_pool")(x)
