"""Training, validation and confusion sets."""

import numpy as np
import pytest
from scipy import stats

from infomcr_tf import data


@pytest.fixture(scope="module")
def numbered():
    """50,000 images of one pixel that spell their own index, so that they can be told apart."""
    index = np.arange(50_000)
    images = np.stack([index // 256, index % 256], axis=-1).astype(np.uint8)
    images = images.reshape(-1, 1, 1, 2)
    labels = index % 10
    return data.ImageDataset("numbered", images, labels, images[:100], labels[:100], 10)


def number(images):
    return images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 0, 1]


def test_45k_5k(numbered):
    splits = data.split_dataset(numbered, validation_size=5000, seed=3)
    assert len(splits.train) == 45_000 and len(splits.validation) == 5000
    assert len(splits.confusion) == 0 and len(splits.test) == 100
    both = np.concatenate([splits.train.indices, splits.validation.indices])
    np.testing.assert_array_equal(np.sort(both), np.arange(50_000))


def test_parts_are_disjoint_and_belong_to_their_indices(numbered):
    splits = data.split_dataset(
        numbered, train_size=10_000, validation_size=5000, confusion_size=2000, seed=1
    )
    parts = (splits.train, splits.validation, splits.confusion)
    assert [len(part) for part in parts] == [10_000, 5000, 2000]
    together = np.concatenate([part.indices for part in parts])
    assert len(np.unique(together)) == 17_000
    for part in parts:
        np.testing.assert_array_equal(number(part.images), part.indices)
        assert (np.diff(part.indices) > 0).all()
    for part in parts[:2]:
        np.testing.assert_array_equal(part.labels, part.indices % 10)
    np.testing.assert_array_equal(splits.test.labels, numbered.y_test)


def test_whole_training_set_in_its_order_of_storage(numbered):
    splits = data.split_dataset(numbered)
    np.testing.assert_array_equal(splits.train.images, numbered.x_train)
    images, labels = splits.training_examples()
    assert images is splits.train.images and labels is splits.train.labels


def test_confusion_labels_are_uniform_and_independent_of_the_truth(numbered):
    splits = data.split_dataset(numbered, train_size=10_000, confusion_size=40_000, seed=0)
    table = np.zeros((10, 10))
    np.add.at(table, (splits.confusion.indices % 10, splits.confusion.labels), 1)
    # Fixed seed, so not a gamble: 400 expected in every one of the 100 cells.
    assert stats.chisquare(table.ravel()).pvalue > 1e-3
    images, labels = splits.training_examples()
    assert len(images) == len(labels) == 50_000
    np.testing.assert_array_equal(labels[10_000:], splits.confusion.labels)


def test_training_subset_does_not_depend_on_the_other_sizes(numbered):
    def draw(**sizes):
        return data.split_dataset(numbered, train_size=10_000, seed=5, **sizes)

    train = draw().train.indices
    np.testing.assert_array_equal(draw(confusion_size=2000).train.indices, train)
    np.testing.assert_array_equal(draw(validation_size=5000).train.indices, train)
    smaller, larger = draw(confusion_size=500).confusion, draw(confusion_size=2000).confusion
    np.testing.assert_array_equal(np.isin(smaller.indices, larger.indices), True)
    labels = dict(zip(larger.indices, larger.labels, strict=True))
    assert [labels[i] for i in smaller.indices] == smaller.labels.tolist()
    other = data.split_dataset(numbered, train_size=500, confusion_size=500, seed=5).confusion
    np.testing.assert_array_equal(other.indices, smaller.indices)


def test_seed(numbered):
    def draw(seed):
        return data.split_dataset(numbered, train_size=1000, confusion_size=100, seed=seed)

    a, b, c = draw(1), draw(1), draw(2)
    np.testing.assert_array_equal(a.train.indices, b.train.indices)
    np.testing.assert_array_equal(a.confusion.labels, b.confusion.labels)
    # Two random subsets of 1,000 of 50,000 share 20 on average; 60 is nine standard deviations.
    assert len(np.intersect1d(a.train.indices, c.train.indices)) < 60
    assert (a.confusion.labels != c.confusion.labels).any()


def test_subset_is_the_same_in_every_version(numbered):
    """Pins the draw: run folders rebuild their training subset from the seed."""
    splits = data.split_dataset(numbered, train_size=5, confusion_size=5, seed=0)
    # RandomState(MT19937(SeedSequence([0, 0]))).permutation(50_000)[:5], sorted.
    assert splits.train.indices.tolist() == PINNED_TRAIN
    assert splits.confusion.labels.tolist() == PINNED_LABELS


def test_every_size_has_its_own_images_where_sets_are_not_nested(numbered):
    def draw(confusion_size, seed=5):
        sizes = {"train_size": 10_000, "confusion_size": confusion_size}
        return data.split_dataset(numbered, **sizes, nested=False, seed=seed)

    splits = [draw(0), draw(1000), draw(2000), draw(2000, seed=6)]
    splits.append(data.split_dataset(numbered, train_size=10_000, confusion_size=2000, seed=5))
    for i, one in enumerate(splits):
        parts = np.concatenate([one.train.indices, one.confusion.indices])
        assert len(np.unique(parts)) == 10_000 + len(one.confusion)
        for other in splits[:i]:
            # Of two random subsets of 10,000 of 50,000, 2,000 images are common on average, with a
            # standard deviation of 36 (hypergeometric); five of them.
            common = len(np.intersect1d(one.train.indices, other.train.indices))
            assert abs(common - 2000) < 180
    # 1,000 and 2,000 of 50,000: 40 on average.
    assert len(np.intersect1d(splits[1].confusion.indices, splits[2].confusion.indices)) < 80
    again = draw(2000)
    np.testing.assert_array_equal(again.train.indices, splits[2].train.indices)
    np.testing.assert_array_equal(again.confusion.labels, splits[2].confusion.labels)


def test_images_that_are_not_nested_are_the_same_in_every_version(numbered):
    splits = data.split_dataset(numbered, train_size=5, confusion_size=5, nested=False, seed=0)
    # RandomState(MT19937(SeedSequence([0, 5, 0, 5, 0]))).permutation(50_000)[:5], sorted.
    assert splits.train.indices.tolist() == PINNED_OWN_TRAIN
    assert splits.confusion.labels.tolist() == PINNED_OWN_LABELS


PINNED_TRAIN = [28867, 29625, 35402, 35930, 40281]
PINNED_LABELS = [2, 1, 2, 1, 4]
PINNED_OWN_TRAIN = [10818, 21638, 27409, 28737, 32156]
PINNED_OWN_LABELS = [1, 3, 5, 7, 1]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train_size": 0}, "`train_size` must be an integer >= 1. Received: train_size=0"),
        ({"train_size": -5}, "`train_size` must be an integer"),
        ({"train_size": 10.0}, "`train_size` must be an integer"),
        ({"train_size": 50_001}, r"at most the number of training images, 50000.*50001 \+ 0 \+ 0"),
        ({"validation_size": -1}, "`validation_size` must be an integer"),
        ({"validation_size": 50_000}, "at most the number of training images, 50000"),
        ({"confusion_size": -1}, "`confusion_size` must be an integer"),
        ({"confusion_size": 1}, "Pass a smaller `train_size`"),
        ({"train_size": 45_000, "validation_size": 4000, "confusion_size": 2000}, "disjoint"),
        ({"seed": -1}, "`seed` must be an integer"),
        ({"seed": None}, "`seed` must be an integer"),
    ],
)
def test_sizes_that_do_not_fit(numbered, sizes, message):
    with pytest.raises(ValueError, match=message):
        data.split_dataset(numbered, **sizes)
