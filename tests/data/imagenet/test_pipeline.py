"""Batches of resized images: order, seeds, resuming, shares of workers."""

import numpy as np
import pytest
import tensorflow as tf
from parameters import some

from infomcr_tf import data
from infomcr_tf.data import imagenet
from infomcr_tf.data.order import shuffled_batches

NORMALIZATION = imagenet.imagenet_normalization("mean")


def stream(images, **changes):
    settings = {
        "positions": np.arange(len(images)),
        "batch_size": 4,
        "crop_size": 33,
        "augmentation": "standard",
        "normalization": NORMALIZATION,
        "seed": 0,
    } | changes
    return imagenet.training_crops(images, settings.pop("positions"), **settings)


def take(dataset, count):
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def assert_same(first, second):
    for (x1, y1), (x2, y2) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x1, x2)
        np.testing.assert_array_equal(y1, y2)


def test_specification(resized):
    assert stream(resized["train"]).element_spec == (
        tf.TensorSpec((4, 33, 33, 3), tf.float32),
        tf.TensorSpec((4,), tf.int32),
    )


def test_order_and_augmentation_are_functions_of_seed_epoch_and_position(resized):
    images, positions = resized["train"], np.array([1, 3, 4, 8, 9, 13, 14])
    jpegs, labels = images.read(tf.constant(positions))
    batches = take(stream(images, positions=positions, batch_size=3, seed=5), 4)
    for epoch in range(2):
        places = shuffled_batches(7, batch_size=3, seed=5, start_epoch=epoch)
        for (x, y), (_, places_of_batch) in zip(
            batches[2 * epoch : 2 * epoch + 2], places.take(2), strict=True
        ):
            for image, label, place in zip(x, y, places_of_batch.numpy(), strict=True):
                what = imagenet.draw_augmentation(
                    data.image_seed(5, epoch, place),
                    image_size=40,
                    crop_size=33,
                    augmentation="standard",
                )
                expected = imagenet.augment_jpeg(jpegs[place], what, 33, NORMALIZATION)
                # Eager and graph may round the same operations differently.
                np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6)
                assert label == labels[place]


def test_seeds_and_epochs_differ(resized):
    first = take(stream(resized["train"]), 6)
    assert_same(first, take(stream(resized["train"]), 6))
    assert not np.array_equal(first[0][0], take(stream(resized["train"], seed=1), 1)[0][0])
    assert not np.array_equal(first[0][0], first[3][0])


@pytest.mark.parametrize(("epoch", "step"), [(0, 2), (1, 0), (2, 1)])
def test_resumed_stream_equals_the_uninterrupted_one(resized, epoch, step):
    whole = take(stream(resized["train"]), 9)  # 3 steps an epoch
    rest = stream(resized["train"], start_epoch=epoch, start_step=step)
    assert_same(take(rest, 9 - (3 * epoch + step)), whole[3 * epoch + step :])


@pytest.mark.parametrize("workers", some([2, 4], [2]))
def test_shares_of_workers_make_the_batch(resized, workers):
    whole = take(stream(resized["train"]), 4)
    shares = [
        take(stream(resized["train"], shard=data.Shard(i, workers)), 4) for i in range(workers)
    ]
    for number, (x, y) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([own[number][0] for own in shares]), x)
        np.testing.assert_array_equal(np.concatenate([own[number][1] for own in shares]), y)


def test_evaluation_batches_are_centre_crops_in_order(resized):
    images = resized["test"]
    jpegs, labels = images.read(tf.range(7))
    batches = list(imagenet.evaluation_crops(images, np.arange(7), batch_size=3, crop_size=33))
    assert [len(y) for _, y in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), labels)
    expected = [imagenet.center_crop(jpeg, image_size=40, crop_size=33) for jpeg in jpegs]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_size": 41}, "`crop_size` must be at most the images' size, 40"),
        ({"batch_size": 16}, "`batch_size` must be at most the number of images, 15"),
        ({"augmentation": "none"}, "`augmentation` must be one of"),
        ({"shard": data.Shard(0, 3)}, "`batch_size` must be divisible by the number of workers"),
        ({"start_step": 3}, "less than the 3 steps"),
    ],
)
def test_bad_arguments(resized, change, message):
    with pytest.raises(ValueError, match=message):
        stream(resized["train"], **change)
