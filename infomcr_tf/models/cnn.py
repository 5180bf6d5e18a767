"""The plain convolutional network of the paper's appendix E."""

from __future__ import annotations

import keras

from infomcr_tf.models.architecture import Recipe, register_architecture
from infomcr_tf.models.layers import Layers, image_input


# Appendix E. Its "l2 regularization of a coefficient 0.0001" is c ||w||^2 in the authors'
# framework: wd = 2 c.
@register_architecture(
    Recipe(
        batch_size=128,
        learning_rate=0.01,
        epochs=200,
        drops=((0.5, 0.1), (0.75, 0.1)),
        nesterov=True,
        weight_decay=2e-4,
    )
)
def cnn(
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    weight_decay: float = 0.0,
    seed: int | None = None,
) -> keras.Model:
    """Six 3x3 convolutions with 64, 64, 128, 128, 192, 192 filters, biases and no BatchNorm.

    ReLU after each, 2x2 max-pooling after the second and the fourth, global average pooling and a
    linear classifier. 815,434 parameters for CIFAR-10.

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
    inputs = x = image_input(input_shape, num_classes, min_size=4)
    layers = Layers(weight_decay, seed, initialization="fan_in")
    for i, filters in enumerate((64, 64, 128, 128, 192, 192), start=1):
        x = layers.conv(x, filters, 3, use_bias=True, name=f"conv{i}")
        x = layers.relu(x, name=f"conv{i}_relu")
        if i in (2, 4):
            x = keras.layers.MaxPooling2D(2, name=f"conv{i}_pool")(x)
    return keras.Model(inputs, layers.classifier(x, num_classes), name="cnn")
