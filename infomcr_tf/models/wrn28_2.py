"""WRN-28-2-B(3,3): Zagoruyko & Komodakis (2016), "Wide Residual Networks"."""

from __future__ import annotations

import keras

from infomcr_tf.models.architecture import Recipe, register_architecture
from infomcr_tf.models.layers import Layers, image_input


# Zagoruyko & Komodakis 2016, section 3: dropped by 0.2 at 60, 120 and 160 of 200 epochs.
@register_architecture(
    Recipe(
        batch_size=128,
        learning_rate=0.1,
        epochs=200,
        drops=((0.3, 0.2), (0.6, 0.2), (0.8, 0.2)),
        nesterov=True,
        weight_decay=5e-4,
    )
)
def wrn28_2(
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    weight_decay: float = 0.0,
    seed: int | None = None,
) -> keras.Model:
    """Wide ResNet, depth 28, width 2: three stages of four blocks with 32, 64 and 128 filters.

    Pre-activation blocks (BN-ReLU-conv-BN-ReLU-conv, add). Where the width changes, the shortcut
    is a 1x1 convolution that reads the output of the block's first BN-ReLU; elsewhere it is the
    block's input. 1,467,610 parameters for CIFAR-10.

    Random crops of its images are padded with zeros, as Jia & Su (section 7.1) do; Zagoruyko &
    Komodakis pad by reflection.

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
    for stage, filters in enumerate((32, 64, 128), start=1):
        for block in (1, 2, 3, 4):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _block(layers, x, filters, strides, name=f"stage{stage}_block{block}")
    x = layers.batch_norm_relu(x, name="last")
    return keras.Model(inputs, layers.classifier(x, num_classes), name="wrn28_2")


def _block(
    layers: Layers, x: keras.KerasTensor, filters: int, strides: int, *, name: str
) -> keras.KerasTensor:
    active = layers.batch_norm_relu(x, name=f"{name}_conv1")
    shortcut = x
    if x.shape[-1] != filters:
        shortcut = layers.conv(active, filters, 1, strides=strides, name=f"{name}_shortcut")
    x = layers.conv(active, filters, 3, strides=strides, name=f"{name}_conv1")
    x = layers.batch_norm_relu(x, name=f"{name}_conv2")
    x = layers.conv(x, filters, 3, name=f"{name}_conv2")
    return keras.layers.Add(name=f"{name}_add")([x, shortcut])
