"""Channel statistics and normalisation."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from infomcr_tf import data


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3, st.integers(1, 4)),
    offset=st.floats(-1e3, 1e3),
    seed=st.integers(0, 2**32 - 1),
)
def test_statistics_against_numpy_in_float64(shape, offset, seed):
    images = np.random.default_rng(seed).normal(offset, 3.0, size=shape)
    mean, std = data.channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2)), rtol=1e-12, atol=1e-12)
    # The deviations carry the rounding of values up to 1e3: 1e3 * 2e-16.
    np.testing.assert_allclose(std, images.std(axis=(0, 1, 2)), rtol=1e-10, atol=1e-12)


def test_statistics_over_several_chunks_of_uint8():
    images = np.random.default_rng(0).integers(0, 256, size=(2500, 3, 2, 3)).astype(np.uint8)
    images[..., 1] //= 2
    mean, std = data.channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, images.std(axis=(0, 1, 2)), rtol=1e-12)


def test_computed_normalisation_gives_mean_0_and_std_1(digits):
    normalization = data.make_normalization("computed", digits.x_train)
    normalized = normalization.apply(digits.x_train)
    assert normalized.dtype == np.float32
    mean, std = data.channel_statistics(normalized)
    # Each float32 value is off by up to 1e-7 of its size, the mean of 92,000 by no more.
    np.testing.assert_allclose(mean, 0, atol=1e-6)
    np.testing.assert_allclose(std, 1, rtol=1e-6)


def test_stated_constants():
    images = np.random.default_rng(0).integers(0, 256, size=(2, 4, 4, 3)).astype(np.uint8)
    normalization = data.make_normalization("cifar", images)
    expected = (images - np.array([125.3, 123.0, 113.9])) / np.array([63.0, 62.1, 66.7])
    # Three float32 roundings of values of order 100 / 60.
    np.testing.assert_allclose(normalization.apply(images), expected, atol=1e-6)


def test_arrays_and_tensors_agree_bit_for_bit():
    images = np.random.default_rng(0).integers(0, 256, size=(3, 4, 4, 3)).astype(np.uint8)
    normalization = data.Normalization.from_images(images)
    in_graph = tf.function(normalization.apply)(tf.constant(images))
    assert in_graph.dtype == tf.float32
    np.testing.assert_array_equal(in_graph, normalization.apply(images))


def test_constant_channel():
    images = np.random.default_rng(0).integers(0, 256, size=(3, 4, 4, 2)).astype(np.uint8)
    images[..., 1] = 9
    mean, std = data.channel_statistics(images)
    assert (mean[1], std[1]) == (9.0, 0.0)
    normalized = data.Normalization.from_images(images).apply(images)
    np.testing.assert_array_equal(normalized[..., 1], 0)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((1.0,), (0.0,)), ((1.0,), (-1.0,)), ((1.0, 2.0), (1.0,)), ((), ()), ((np.nan,), (1.0,))],
)
def test_bad_constants(mean, std):
    with pytest.raises(ValueError, match="one finite number per channel"):
        data.Normalization(mean, std)


def test_wrong_channels_and_names(digits):
    with pytest.raises(ValueError, match=r"must have 3 channels.*\(1, 8, 8, 1\)"):
        data.make_normalization("cifar", digits.x_train)
    with pytest.raises(ValueError, match=r"Did you mean 'computed'\?"):
        data.make_normalization("compute", digits.x_train)
    with pytest.raises(ValueError, match="must not be empty"):
        data.channel_statistics(np.zeros((0, 2, 2, 1)))
