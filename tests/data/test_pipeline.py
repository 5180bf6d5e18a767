"""Batches: permutations, augmentation per image, reproducibility, resuming."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from infomcr_tf import data

IDENTITY = data.Normalization((0.0,), (1.0,))


def stream(images, labels, *, batch_size=6, augmentation="4-crop-f", **kwargs):
    kwargs = {"normalization": IDENTITY, "seed": 0} | kwargs
    return data.training_dataset(
        images, labels, batch_size=batch_size, augmentation=augmentation, **kwargs
    )


def take(dataset, count):
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def assert_same(first, second):
    for (x1, y1), (x2, y2) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x1, x2)
        np.testing.assert_array_equal(y1, y2)


def distinct_images(count, size=4):
    """Random positive images; every window of a padded one is different."""
    images = np.random.default_rng(0).uniform(1, 2, size=(count, size, size, 1))
    return images.astype(np.float32), np.arange(count)


def views(image, padding):
    """What a crop and a flip of `image` may give, by (row, column, flipped), written out."""
    height, width, channels = image.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, channels), np.float32)
    padded[padding : padding + height, padding : padding + width] = image
    result = {}
    for row, column in itertools.product(range(2 * padding + 1), repeat=2):
        window = padded[row : row + height, column : column + width]
        result[row, column, False] = window
        result[row, column, True] = window[:, ::-1]
    return result


def find(batch_image, image, padding):
    """Which crop and flip of `image` this is. (0 pixels of the image: several, so None.)"""
    matches = [k for k, v in views(image, padding).items() if np.array_equal(v, batch_image)]
    assert matches, "not a crop of the zero-padded image"
    return matches[0] if len(matches) == 1 else None


def test_crop_and_flip_are_those_of_the_zero_padded_image_and_uniform():
    count = 3600
    images, labels = distinct_images(count)
    dataset = stream(images, labels, batch_size=count, augmentation="1-crop-f")
    ((x, y),) = take(dataset, 1)
    # A 3 x 3 part of the image is in every window, so the place is unique: 18 places.
    places = [find(x[i], images[y[i]], 1) for i in range(count)]
    counts = [places.count(key) for key in views(images[0], 1)]
    assert sum(counts) == count
    assert stats.chisquare(counts).pvalue > 1e-3  # fixed seed; 200 expected in each


def test_4_crop_reaches_every_offset():
    images, labels = distinct_images(1500, size=6)
    ((x, y),) = take(stream(images, labels, batch_size=1500), 1)
    places = [find(x[i], images[y[i]], 4) for i in range(1500)]
    # At size 6 and padding 4 at least 2 x 2 pixels of the image are left: always unique.
    rows = np.bincount([place[0] for place in places], minlength=9)
    columns = np.bincount([place[1] for place in places], minlength=9)
    flips = np.bincount([place[2] for place in places])
    for counts in (rows, columns, flips):
        assert stats.chisquare(counts).pvalue > 1e-3


def test_flip_only_flips_half_and_nothing_else():
    images, labels = distinct_images(2000)
    ((x, y),) = take(stream(images, labels, batch_size=2000, augmentation="flip-only"), 1)
    flipped = (x == images[y][:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (x == images[y]).all(axis=(1, 2, 3))
    assert (flipped ^ kept).all()
    assert stats.binomtest(int(flipped.sum()), 2000).pvalue > 1e-3


def test_no_aug_changes_nothing():
    images, labels = distinct_images(12)
    for x, y in take(stream(images, labels, augmentation="no-aug"), 2):
        np.testing.assert_array_equal(x, images[y])


def test_one_image_many_times_differs_within_a_batch_and_between_epochs():
    images = np.repeat(distinct_images(1, size=8)[0], 64, axis=0)
    (first, _), (second, _) = take(stream(images, np.arange(64), batch_size=64), 2)
    assert len(np.unique(first.reshape(64, -1), axis=0)) > 30  # of 162 possible views
    order = [epoch_labels.argsort() for epoch_labels in epochs_labels(images, 64)]
    changed = (first[order[0]] != second[order[1]]).any(axis=(1, 2, 3))
    assert changed.mean() > 0.9  # 1 - 1/162 expected


def epochs_labels(images, count):
    return [y for _, y in take(stream(images, np.arange(count), batch_size=count), 2)]


def test_augmentation_is_a_function_of_seed_epoch_and_index():
    images, labels = distinct_images(20, size=8)
    for (x, y), (epoch, _) in zip(
        take(stream(images, labels, seed=7), 6), itertools.product(range(2), range(3)), strict=True
    ):
        for image, index in zip(x, y, strict=True):
            seed = data.image_seed(7, epoch, index)
            expected = data.augment(tf.constant(images[index]), "4-crop-f", seed)
            np.testing.assert_array_equal(image, expected)


def test_zero_padding_is_the_mean_colour():
    images = np.full((6, 4, 4, 1), 200, np.uint8)
    normalization = data.Normalization((100.0,), (50.0,))
    ((x, _),) = take(stream(images, np.zeros(6, int), normalization=normalization), 1)
    assert set(np.unique(x)) == {0.0, 2.0}


def test_every_epoch_is_a_new_permutation_and_drops_the_remainder():
    images, labels = distinct_images(20)
    batches = take(stream(images, labels), 9)
    epochs = [np.concatenate([y for _, y in batches[i : i + 3]]) for i in (0, 3, 6)]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == 18
    assert len({tuple(epoch) for epoch in epochs}) == 3
    # Nobody is left out for good.
    many = take(stream(images, labels, augmentation="no-aug"), 3 * 20)
    assert set(np.concatenate([y for _, y in many])) == set(range(20))


def test_a_full_epoch_covers_all():
    images, labels = distinct_images(18)
    batches = take(stream(images, labels), 3)
    assert sorted(np.concatenate([y for _, y in batches])) == list(range(18))


def test_order_is_uniform():
    """Which example comes first, over many epochs."""
    images, labels = distinct_images(5)
    batches = take(stream(images, labels, batch_size=5, augmentation="no-aug"), 1000)
    first = np.bincount([y[0] for _, y in batches], minlength=5)
    assert stats.chisquare(first).pvalue > 1e-3


def test_seeds():
    images, labels = distinct_images(20)
    assert_same(take(stream(images, labels, seed=3), 5), take(stream(images, labels, seed=3), 5))
    (x, y), (other_x, other_y) = (take(stream(images, labels, seed=s), 1)[0] for s in (3, 4))
    assert (y != other_y).any() and (x != other_x).any()


@pytest.mark.parametrize(("epoch", "step"), [(0, 1), (1, 0), (2, 2)])
def test_resumed_stream_equals_the_uninterrupted_one(epoch, step):
    images, labels = distinct_images(20)
    whole = take(stream(images, labels), 12)
    rest = stream(images, labels, start_epoch=epoch, start_step=step)
    assert_same(take(rest, 12 - (3 * epoch + step)), whole[3 * epoch + step :])


def test_specification_and_types(digits):
    dataset = stream(digits.x_train, digits.y_train, batch_size=64)
    assert dataset.element_spec == (
        tf.TensorSpec((64, 8, 8, 1), tf.float32),
        tf.TensorSpec((64,), tf.int32),
    )
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY


def test_fit_uses_it(digits):
    normalization = data.make_normalization("computed", digits.x_train)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    settings = {"augmentation": "no-aug", "normalization": normalization}
    dataset = stream(digits.x_train, digits.y_train, batch_size=64, **settings)
    history = model.fit(dataset, steps_per_epoch=1437 // 64, epochs=5, shuffle=False, verbose=0)
    assert history.history["accuracy"][-1] > 0.8
    test = data.evaluation_dataset(
        digits.x_test, digits.y_test, batch_size=100, normalization=normalization
    )
    assert model.evaluate(test, verbose=0, return_dict=True)["accuracy"] > 0.8


def test_replicas_share_every_batch():
    images, labels = distinct_images(20)
    devices = [device.name for device in tf.config.list_logical_devices("CPU")[:2]]
    strategy = tf.distribute.MirroredStrategy(
        devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    expected = take(stream(images, labels), 4)
    distributed = iter(strategy.experimental_distribute_dataset(stream(images, labels)))
    for x, y in expected:
        parts = [strategy.experimental_local_results(part) for part in next(distributed)]
        assert [len(part) for part in parts[1]] == [3, 3]
        np.testing.assert_array_equal(np.concatenate(parts[0]), x)
        np.testing.assert_array_equal(np.concatenate(parts[1]), y)


def test_evaluation_dataset_keeps_order_and_the_last_batch(digits):
    normalization = data.make_normalization("computed", digits.x_train)
    dataset = data.evaluation_dataset(
        digits.x_test, digits.y_test, batch_size=100, normalization=normalization
    )
    batches = take(dataset, -1)
    assert [len(y) for _, y in batches] == [100, 100, 100, 60]
    x = np.concatenate([x for x, _ in batches])
    np.testing.assert_array_equal(x, normalization.apply(digits.x_test))
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), digits.y_test)
    assert_same(take(dataset, -1), batches)


IMAGES, LABELS = distinct_images(20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "must not be empty"),
        ({"images": IMAGES[0]}, "height, width, channels"),
        ({"images": IMAGES * np.nan}, "must be finite"),
        ({"labels": LABELS[:5]}, "one integer per image"),
        ({"batch_size": 21}, "at most the number of images, 20. Received: 21"),
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1"),
        ({"augmentation": "4-crop"}, r"Did you mean '4-crop-f'\?"),
        ({"normalization": data.Normalization((0, 0, 0), (1, 1, 1))}, "must have 3 channels"),
        ({"start_step": 3}, "less than the 3 steps"),
        ({"start_epoch": -1}, "`start_epoch` must be"),
        ({"seed": 1.5}, "`seed` must be"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message) as error:
        stream(**({"images": IMAGES, "labels": LABELS} | change))
    assert "\n" not in str(error.value)


def test_bad_evaluation_arguments():
    with pytest.raises(ValueError, match="`batch_size` must be"):
        data.evaluation_dataset(IMAGES, LABELS, batch_size=0, normalization=IDENTITY)
    with pytest.raises(ValueError, match="`augmentation` must be one of"):
        data.augment(tf.zeros((4, 4, 1)), "mirror", data.image_seed(0, 0, 0))
