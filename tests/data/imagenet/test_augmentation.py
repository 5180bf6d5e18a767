"""Augmentation against a written-out NumPy version of fb.resnet.torch's transforms."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from infomcr_tf import data
from infomcr_tf.data import imagenet

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])


def gray(image):
    return (0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2])[..., None]


TRANSFORMS = {
    "brightness": lambda image, factor: factor * image,
    "contrast": lambda image, factor: factor * image + (1 - factor) * gray(image).mean(),
    "saturation": lambda image, factor: factor * image + (1 - factor) * gray(image),
}


def written_out(image, what, size, order, std):
    """Crop, flip, the three jitters one after the other, lighting, normalisation, in float64."""
    row, column = int(what.row), int(what.column)
    image = image[row : row + size, column : column + size].astype(np.float64) / 255
    if what.flip:
        image = image[:, ::-1]
    factors = dict(zip(TRANSFORMS, what.factors.numpy().astype(np.float64), strict=True))
    for name in order:
        image = TRANSFORMS[name](image, factors[name])
    return (image + what.lighting.numpy() - MEAN) / std


@pytest.fixture(scope="module")
def jpeg(resized):
    return resized["train"].read(tf.constant([2]))[0][0]


@pytest.mark.parametrize("normalization", imagenet.IMAGENET_NORMALIZATIONS)
@pytest.mark.parametrize("augmentation", imagenet.IMAGENET_AUGMENTATIONS)
def test_equals_the_written_out_version_in_every_order(jpeg, augmentation, normalization):
    std = np.ones(3) if normalization == "mean" else STD
    whole = tf.io.decode_jpeg(jpeg, dct_method="INTEGER_ACCURATE").numpy()
    for seed, order in enumerate(itertools.permutations(TRANSFORMS)):
        what = imagenet.draw_augmentation(
            tf.constant([seed, 1]), image_size=40, crop_size=33, augmentation=augmentation
        )
        found = imagenet.augment_jpeg(
            jpeg, what, 33, imagenet.imagenet_normalization(normalization)
        )
        expected = written_out(whole, what, 33, order, std)
        # Values of a few units in float32, some ten operations.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_distributions():
    count = 4000

    @tf.function
    def draw(i):
        return imagenet.draw_augmentation(
            data.image_seed(0, 0, i), image_size=40, crop_size=33, augmentation="standard"
        )

    signature = imagenet.Augmentation(tf.int32, tf.int32, tf.bool, tf.float32, tf.float32)
    all_ = tf.map_fn(draw, tf.range(count), fn_output_signature=signature)
    rows, columns, flips, factors, lighting = (np.asarray(value) for value in all_)
    for places in (rows, columns):
        assert stats.chisquare(np.bincount(places, minlength=8)).pvalue > 1e-3
        assert len(np.bincount(places)) == 8
    assert stats.binomtest(int(flips.sum()), count).pvalue > 1e-3
    for own in factors.T:
        assert stats.kstest(own, stats.uniform(0.6, 0.8).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.06
    # lighting = V (lambda * n): projected on the principal axes, normal with deviation 0.1 lambda.
    axes = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    components = np.linalg.solve(axes, lighting.T)
    for own, eigenvalue in zip(components, (0.2175, 0.0188, 0.0045), strict=True):
        assert stats.kstest(own, stats.norm(0, 0.1 * eigenvalue).cdf).pvalue > 1e-3


def test_center_crop_and_no_augmentation_are_the_same_place(jpeg):
    whole = tf.io.decode_jpeg(jpeg, dct_method="INTEGER_ACCURATE").numpy()
    crop = imagenet.center_crop(jpeg, image_size=40, crop_size=33)
    np.testing.assert_array_equal(crop, whole[3:36, 3:36])
    what = imagenet.draw_augmentation(
        tf.constant([0, 0]), image_size=40, crop_size=33, augmentation="no-aug"
    )
    assert (int(what.row), int(what.column), bool(what.flip)) == (3, 3, False)


def test_unknown_names():
    with pytest.raises(ValueError, match="Did you mean 'standard'"):
        imagenet.draw_augmentation(
            tf.constant([0, 0]), image_size=40, crop_size=33, augmentation="standart"
        )
    with pytest.raises(ValueError, match="`name` must be one of"):
        imagenet.imagenet_normalization("cifar")
