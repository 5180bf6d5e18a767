"""Mean subtraction for ImageNet."""

from __future__ import annotations

from infomcr_tf.arguments import check_choice
from infomcr_tf.data.normalization import Normalization

# Channel statistics of ImageNet's training images in [0, 1], as fb.resnet.torch states them.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

NORMALIZATIONS = ("mean", "mean-std")


def make_normalization(name: str) -> Normalization:
    """The normalisation called `name`, of images in 0..255.

    Args:
        name: `"mean"`: x / 255 - mean, appendix E's "mean channels subtraction"; `"mean-std"`:
            divided by the channels' deviations too, as fb.resnet.torch does.

    Raises:
        ValueError: if `name` is unknown.
    """
    scales = (1.0, 1.0, 1.0) if check_choice("name", name, NORMALIZATIONS) == "mean" else _STD
    return Normalization(
        tuple(255.0 * mean for mean in _MEAN), tuple(255.0 * scale for scale in scales)
    )
