"""Splits, normalisation, augmentation and pipelines, for any arrays and numbers."""

import numpy as np
import tensorflow as tf
from fuzz.fuzzing import (
    ANYTHING,
    INTEGERS,
    NUMBERS,
    Refused,
    changed,
    contract,
    fuzz,
    is_integer,
    near,
)
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from infomcr_tf import data

SHAPES = st.one_of(
    st.tuples(st.integers(0, 5), *[st.integers(0, 3)] * 2, st.integers(0, 3)),
    npst.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
)
DTYPES = st.sampled_from(
    [
        "uint8",
        "int8",
        "int64",
        "uint16",
        "float16",
        "float32",
        "float64",
        "bool",
        "complex64",
        "S3",
        "U2",
        "M8[s]",
        "O",
    ]
)


def fill(shape_dtype_seed):
    shape, dtype, seed, poison = shape_dtype_seed
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype).kind
    if kind in "SUO":
        return np.full(shape, "x", dtype)
    array = np.array(rng.normal(60, 40, size=shape).clip(0, 127)).astype(dtype)
    if kind == "f" and array.size and poison is not None:
        array.flat[rng.integers(array.size)] = poison
    return array


POISON = st.sampled_from([None, None, np.nan, np.inf, 1e300, 65504, 5e-324, -0.0])
ARRAYS = st.tuples(SHAPES, DTYPES, st.integers(0, 99), POISON).map(fill)
IMAGES = st.tuples(
    st.tuples(st.integers(1, 6), st.just(2), st.just(2), st.just(1)),
    st.sampled_from(["uint8", "float32", "float64", "int16"]),
    st.integers(0, 99),
    POISON,
).map(fill)
LABELS = st.one_of(
    npst.arrays(
        st.sampled_from([np.int64, np.uint8, np.int32]),
        st.integers(0, 6),
        elements=st.integers(0, 4),
    ),
    npst.arrays(np.int64, st.integers(1, 6), elements=st.integers(-2, 12)),
    npst.arrays(np.float32, st.integers(1, 6), elements=st.sampled_from([0.0, 1.0, 0.5, np.nan])),
    st.integers(1, 6).map(lambda n: np.eye(3)[np.arange(n) % 3]),
    ARRAYS,
    st.lists(st.integers(0, 3), max_size=6),
)


def sound_images(images):
    images = np.asarray(images)
    return (
        images.ndim == 4
        and images.size
        and images.dtype.kind in "uif"
        and (np.isfinite(images).all())
    )


def sound_labels(labels, count, num_classes=None):
    labels = np.asarray(labels)
    sound = labels.shape == (count,) and labels.dtype.kind in "ui" and labels.min() >= 0
    return sound and (num_classes is None or labels.max() < num_classes)


@fuzz(
    st.tuples(
        st.one_of(IMAGES, ARRAYS, ANYTHING),
        st.one_of(LABELS, ANYTHING),
        st.one_of(st.none(), st.integers(1, 5), ANYTHING),
    ),
    few=30,
    many=500,
)
def test_examples(case):
    images, labels, num_classes = case
    try:
        with contract():
            checked = data.check_labelled_images(images, labels, num_classes=num_classes)
    except Refused:
        return
    assert sound_images(images)
    assert num_classes is None or is_integer(num_classes, 1)
    assert sound_labels(labels, len(images), num_classes)
    np.testing.assert_array_equal(checked[0], np.asarray(images))
    np.testing.assert_array_equal(checked[1], np.asarray(labels))


def image_set(seed=0, train=12, test=5):
    rng = np.random.default_rng(seed)
    draw = lambda n: rng.integers(0, 256, (n, 2, 2, 3)).astype(np.uint8)  # noqa: E731
    labels = lambda n: rng.integers(0, 4, n)  # noqa: E731
    return data.ImageDataset("any", draw(train), labels(train), draw(test), labels(test), 4)


SET = {
    "name": "ä",
    "num_classes": 5,
    "x_train": np.zeros((3, 2, 2, 1), np.uint8),
    "y_train": np.arange(3),
    "x_test": np.zeros((2, 2, 2, 1), np.uint8),
    "y_test": np.arange(2),
}


@fuzz(
    changed(
        SET,
        {
            "x_train": st.one_of(IMAGES, ARRAYS, ANYTHING),
            "y_train": LABELS,
            "x_test": st.one_of(IMAGES, ARRAYS, ANYTHING),
            "y_test": LABELS,
            "num_classes": ANYTHING,
        },
    ),
    few=20,
    many=300,
)
def test_image_dataset(case):
    try:
        with contract():
            made = data.ImageDataset(**case)
    except Refused:
        return
    assert is_integer(case["num_classes"], 1)
    for part in ("train", "test"):
        images, labels = getattr(made, f"x_{part}"), getattr(made, f"y_{part}")
        assert images.dtype == np.uint8
        assert sound_images(images)
        assert labels.dtype == np.int32
        assert sound_labels(labels, len(images), case["num_classes"])


@fuzz(
    changed(
        {"train_size": 5, "validation_size": 2, "confusion_size": 3, "seed": 1},
        dict.fromkeys(
            ("train_size", "validation_size", "confusion_size", "seed"),
            st.one_of(st.integers(0, 13), st.none(), ANYTHING),
        ),
        at_most=3,
    ),
    few=30,
    many=500,
)
def test_splits(case):
    """Disjoint parts of the sizes asked for, each with its own images; labels true but one's."""
    full = image_set()
    try:
        with contract():
            splits = data.split_dataset(full, **case)
    except Refused:
        return
    parts = [splits.train, splits.validation, splits.confusion]
    sizes = [case["train_size"], case["validation_size"], case["confusion_size"]]
    if sizes[0] is None:
        sizes[0] = 12 - sizes[1]
    assert [len(part) for part in parts] == sizes
    indices = np.concatenate([part.indices for part in parts])
    assert len(set(indices)) == len(indices)
    for part in parts:
        np.testing.assert_array_equal(part.images, full.x_train[part.indices])
    for part in parts[:2]:
        np.testing.assert_array_equal(part.labels, full.y_train[part.indices])
    assert np.isin(splits.confusion.labels, np.arange(4)).all()


@fuzz(
    st.one_of(
        st.tuples(st.lists(NUMBERS, max_size=3), st.lists(NUMBERS, max_size=3), IMAGES),
        st.tuples(st.just([50.0]), st.floats(0.1, 100).map(lambda s: [s]), IMAGES),
        st.tuples(ANYTHING, ANYTHING, st.one_of(IMAGES, ARRAYS)),
    ),
    few=30,
    many=400,
)
def test_normalization(case):
    mean, std, images = case
    try:
        with contract():
            normalization = data.Normalization(mean, std)
            out = normalization.apply(images)
    except Refused:
        return
    assert out.dtype == np.float32
    assert out.shape == images.shape
    with np.errstate(all="ignore"):
        m, s = (np.asarray(v, np.float64) for v in (normalization.mean, normalization.std))
        expected = (images.astype(np.float64) - m) / s
        # Three float32 roundings of terms that may cancel; inf where float32 has no number.
        scale = (np.abs(images.astype(np.float64)) + np.abs(m)) / s
        representable = scale < 1e37
    close = np.abs(out - expected) <= 3e-7 * scale + 1e-37
    assert (close | ~representable).all()


@fuzz(st.one_of(IMAGES, ARRAYS), few=20, many=300)
def test_channel_statistics(images):
    try:
        with contract():
            mean, std = data.channel_statistics(images)
    except Refused:
        assert not sound_images(images) or np.abs(images).max() > 1e150
        return
    assert sound_images(images)
    exact = images.astype(np.float64)
    scale = max(np.abs(exact).max(), 1e-300)
    assert (np.abs(mean - exact.mean(axis=(0, 1, 2))) <= 1e-13 * scale).all()
    assert (np.abs(std - exact.std(axis=(0, 1, 2))) <= 1e-7 * scale).all()


NORMALIZATION = data.Normalization((50.0,), (20.0,))
PIPELINE = {
    "batch_size": 2,
    "augmentation": "1-crop-f",
    "seed": 3,
    "start_epoch": 1,
    "start_step": 1,
}


@fuzz(
    st.tuples(
        IMAGES,
        changed(
            PIPELINE,
            {
                "augmentation": near(data.AUGMENTATIONS),
                **dict.fromkeys(
                    ("batch_size", "seed", "start_epoch", "start_step"),
                    st.one_of(st.integers(0, 4), INTEGERS, ANYTHING),
                ),
            },
        ),
    ),
    few=6,
    many=120,
)
def test_training_batches(case):
    """One epoch holds whole batches of different examples, each with its own label."""
    images, arguments = case
    labels = np.arange(len(images))
    try:
        with contract():
            dataset = data.training_dataset(
                images, labels, normalization=NORMALIZATION, **arguments
            )
    except Refused:
        return
    size, step = arguments["batch_size"], arguments["start_step"]
    batches = list(dataset.take(len(images) // size - step).as_numpy_iterator())
    seen = np.concatenate([own for _, own in batches])
    assert all(x.shape == (size, 2, 2, 1) and len(y) == size for x, y in batches)
    assert len(set(seen)) == len(seen) == (len(images) // size - step) * size
    if arguments["augmentation"] == "no-aug":
        for x, y in batches:
            np.testing.assert_array_equal(x, NORMALIZATION.apply(images)[y])


@fuzz(
    st.tuples(st.one_of(IMAGES, ARRAYS), LABELS, st.one_of(st.integers(1, 4), ANYTHING)),
    few=6,
    many=120,
)
def test_evaluation_batches(case):
    images, labels, batch_size = case
    try:
        with contract():
            dataset = data.evaluation_dataset(
                images, labels, batch_size=batch_size, normalization=NORMALIZATION
            )
    except Refused:
        return
    batches = list(dataset.as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), labels)
    out = np.concatenate([x for x, _ in batches])
    np.testing.assert_array_equal(out, NORMALIZATION.apply(np.asarray(images)))


@fuzz(
    st.tuples(
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)),
        near(data.AUGMENTATIONS),
        st.integers(0, 2**31),
    ),
    few=7,
    many=150,
)
def test_augmentation(case):
    """Keeps the shape; what is not padding is a pixel of the image."""
    shape, augmentation, seed = case
    image = tf.random.stateless_uniform(shape, [1, 2], 1.0, 2.0)
    try:
        with contract():
            out = data.augment(image, augmentation, data.image_seed(seed, 0, 1))
    except Refused:
        assert augmentation not in data.AUGMENTATIONS
        return
    assert out.shape == image.shape
    assert np.isin(out.numpy(), [0.0, *image.numpy().ravel()]).all()


@fuzz(
    st.tuples(near(data.DATASETS).filter(lambda n: n not in ("cifar10", "cifar100")), ANYTHING),
    few=15,
    many=150,
)
def test_load(case):
    name, data_dir = case
    try:
        with contract():
            loaded = data.load_dataset(name, data_dir, download=False)
    except Refused:
        return
    assert name == "digits"
    assert len(loaded.y_train) == 1437
