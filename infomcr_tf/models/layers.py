"""The layers all five architectures are made of, with one initialisation and one weight decay."""

from __future__ import annotations

from numbers import Integral

import keras
import numpy as np

# The Torch code of the ResNet, WRN and DenseNet papers runs SpatialBatchNormalization with its
# defaults: epsilon 1e-5 and momentum 0.1, the weight of the new value. Keras' `momentum` is the
# weight of the old one.
from infomcr_tf.arguments import check_argument, check_integer

_BATCH_NORM = {"epsilon": 1e-5, "momentum": 0.9}

# "fan_in": He et al. (2015), "Delving Deep into Rectifiers", Eq. 10: normal, variance 2 / fan_in.
# "fan_out": the Torch code of the ResNet, WRN and DenseNet papers (fb.resnet.torch,
# wide-residual-networks, DenseNet): convolutions normal with variance 2 / fan_out, the classifier
# Torch's own uniform between +-1 / sqrt(fan_in).
_HE_NORMAL = {"scale": 2.0, "distribution": "untruncated_normal"}
INITIALIZERS = {
    "fan_in": {kind: {**_HE_NORMAL, "mode": "fan_in"} for kind in ("conv", "dense")},
    "fan_out": {
        "conv": {**_HE_NORMAL, "mode": "fan_out"},
        "dense": {"scale": 1 / 3, "distribution": "uniform", "mode": "fan_in"},
    },
}

# A larger size is a mistake, which TensorFlow would notice when the memory is used up.
_LARGEST = 1_000_000


class Layers:
    """Makes the layers of one model.

    Initialisation: zero biases, BatchNorm gamma 1 and beta 0, and the kernels as `INITIALIZERS`
    says.

    Args:
        weight_decay: wd >= 0. Every trainable weight w gets the regulariser (wd/2) ||w||^2, whose
            gradient is wd * w; Keras' `L2(c)` is c ||w||^2, so c = wd / 2.
        seed: integer that fixes the initial weights (each layer draws its own seed from it), or
            `None`.
        initialization: a key of `INITIALIZERS`.
    """

    def __init__(
        self, weight_decay: float, seed: int | None, *, initialization: str = "fan_out"
    ) -> None:
        self._initializers = INITIALIZERS[initialization]
        self._weight_decay = check_argument("weight_decay", weight_decay)
        if seed is not None:
            seed = check_argument("seed", seed)
        self._seeds = None if seed is None else np.random.default_rng(seed)

    def conv(
        self,
        x: keras.KerasTensor,
        filters: int,
        kernel_size: int,
        *,
        name: str,
        strides: int = 1,
        use_bias: bool = False,
    ) -> keras.KerasTensor:
        """Convolution padded with kernel_size // 2 zeros on every side, as in the Torch code.

        Keras' own "same" padding is a different one where strides > 1: on even sizes it pads less
        on the left than on the right, which shifts the convolution against a strided shortcut.
        """
        if strides > 1 and kernel_size > 1:
            x = self.zero_padding(x, kernel_size // 2, name=f"{name}_pad")
        return keras.layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="same" if strides == 1 else "valid",
            use_bias=use_bias,
            kernel_initializer=self._initializer("conv"),
            kernel_regularizer=self._regularizer(),
            bias_regularizer=self._regularizer() if use_bias else None,
            name=name,
        )(x)

    def batch_norm(self, x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
        """Batch normalisation."""
        return keras.layers.BatchNormalization(
            **_BATCH_NORM,
            gamma_regularizer=self._regularizer(),
            beta_regularizer=self._regularizer(),
            name=name,
        )(x)

    def batch_norm_relu(self, x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
        """Batch normalisation, then ReLU: layers `<name>_bn` and `<name>_relu`."""
        return self.relu(self.batch_norm(x, name=f"{name}_bn"), name=f"{name}_relu")

    def relu(self, x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
        """Rectifier."""
        return keras.layers.ReLU(name=name)(x)

    def zero_padding(self, x: keras.KerasTensor, width: int, *, name: str) -> keras.KerasTensor:
        """`width` zeros on each of the four sides."""
        return keras.layers.ZeroPadding2D(width, name=name)(x)

    def classifier(self, x: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
        """Global average pooling and the fully connected layer whose outputs are the logits."""
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        return keras.layers.Dense(
            num_classes,
            kernel_initializer=self._initializer("dense"),
            kernel_regularizer=self._regularizer(),
            bias_regularizer=self._regularizer(),
            name="logits",
        )(x)

    def _initializer(self, kind: str) -> keras.initializers.Initializer:
        seed = None if self._seeds is None else int(self._seeds.integers(2**31))
        return keras.initializers.VarianceScaling(**self._initializers[kind], seed=seed)

    def _regularizer(self) -> keras.regularizers.Regularizer | None:
        return keras.regularizers.L2(self._weight_decay / 2) if self._weight_decay else None


def image_input(
    input_shape: tuple[int | None, int | None, int], num_classes: int, *, min_size: int
) -> keras.KerasTensor:
    """The input of a model, after its arguments have been checked.

    Raises:
        ValueError: if `input_shape` is not (height, width, channels) with sides of at least
            `min_size` (or `None`: any), or `num_classes` is not an integer >= 2, or one of these is
            beyond a million.
    """
    shape = tuple(input_shape) if isinstance(input_shape, (tuple, list)) else ()
    sides, channels = shape[:-1], shape[-1:]
    if (
        len(shape) != 3
        or not all(side is None or _is_size(side) for side in sides)
        or not all(size is not None and _is_size(size) and size >= 1 for size in channels)
    ):
        raise ValueError(
            "`input_shape` must be (height, width, channels), without the batch. "
            f"Received: input_shape={input_shape!r}"
        )
    if any(side is not None and side < min_size for side in sides):
        raise ValueError(
            f"`input_shape` must be at least {min_size} x {min_size} pixels for this "
            f"architecture. Received: input_shape={shape}. Resize the images, or choose an "
            "architecture with fewer strides."
        )
    check_integer("num_classes", num_classes, minimum=2)
    if not _is_size(num_classes):
        raise ValueError(f"`num_classes` must be <= {_LARGEST:,}. Received: {num_classes!r}")
    return keras.Input(shape, name="image")


def _is_size(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value <= _LARGEST
