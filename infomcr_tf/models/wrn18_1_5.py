"""WRN-18-1.5 for ImageNet: Zagoruyko & Komodakis (2016), "Wide Residual Networks", section 3."""

from __future__ import annotations

import keras

from infomcr_tf.models.architecture import Recipe, register_architecture
from infomcr_tf.models.layers import Layers, image_input


# For ImageNet: divided by 10 every 30 of 90 epochs, Nesterov as in the WRN authors' code; batch
# 128 as in the paper's section 7.2.1.
@register_architecture(
    Recipe(
        batch_size=128,
        learning_rate=0.1,
        epochs=90,
        drops=((1 / 3, 0.1), (2 / 3, 0.1)),
        nesterov=True,
        weight_decay=1e-4,
    )
)
def wrn18_1_5(
    input_shape: tuple[int | None, int | None, int] = (114, 114, 3),
    num_classes: int = 1000,
    *,
    weight_decay: float = 0.0,
    seed: int | None = None,
) -> keras.Model:
    """ResNet-18 with 1.5 times the filters: four stages of two blocks, 96, 192, 384, 768 filters.

    Stem of 64 7x7 filters with stride 2 and 3x3 max-pooling with stride 2; post-activation blocks
    (conv-BN-ReLU-conv-BN, add, ReLU). Where the width changes (from 64 to 96 in stage 1 already)
    the shortcut is a 1x1 convolution with BatchNorm. 25,875,816 parameters for 1,000 classes. The
    default input is the paper's 114 x 114 crop of a 128 x 128 image.

    Args:
        input_shape: (height, width, channels), at least 8 x 8 pixels; `None` for any height, width.
        num_classes: K.
        weight_decay: wd: adds (wd/2) ||w||^2 over all trainable weights to `model.losses`.
        seed: makes the initial weights reproducible.

    Returns:
        A functional model from images [B, H, W, C] to logits [B, K].

    Raises:
        ValueError: if an argument is out of range.
    """
    # Below 8 x 8 the stem leaves a single pixel: not one 3x3 kernel would see a neighbour.
    inputs = image_input(input_shape, num_classes, min_size=8)
    layers = Layers(weight_decay, seed)
    x = layers.conv(inputs, 64, 7, strides=2, name="stem_conv")
    x = layers.batch_norm_relu(x, name="stem")
    # Values are >= 0 after the ReLU, so zeros around the image never win the maximum.
    x = layers.zero_padding(x, 1, name="stem_pool_pad")
    x = keras.layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    for stage, filters in enumerate((96, 192, 384, 768), start=1):
        for block in (1, 2):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _block(layers, x, filters, strides, name=f"stage{stage}_block{block}")
    return keras.Model(inputs, layers.classifier(x, num_classes), name="wrn18_1_5")


def _block(
    layers: Layers, x: keras.KerasTensor, filters: int, strides: int, *, name: str
) -> keras.KerasTensor:
    shortcut = x
    if x.shape[-1] != filters:
        shortcut = layers.conv(x, filters, 1, strides=strides, name=f"{name}_shortcut")
        shortcut = layers.batch_norm(shortcut, name=f"{name}_shortcut_bn")
    x = layers.conv(x, filters, 3, strides=strides, name=f"{name}_conv1")
    x = layers.batch_norm_relu(x, name=f"{name}_conv1")
    x = layers.conv(x, filters, 3, name=f"{name}_conv2")
    x = layers.batch_norm(x, name=f"{name}_conv2_bn")
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.relu(x, name=f"{name}_relu")
