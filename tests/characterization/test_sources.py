"""Data sets in the place of arrays: the same numbers, few passes, clear refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from infomcr_tf import characterize

N = 30
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 5)).astype(np.float32)
Y = RNG.integers(3, size=N)
SETTINGS = {"num_trials": 3, "num_samples": 5, "progress": False}


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        part = slice(7 * index, 7 * index + 7)
        return X[part], Y[part]


def factory():
    return (Batches()[i] for i in range(5))


SOURCES = {
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(7),
    "PyDataset": Batches,
    "a function": lambda: factory,
}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    body = [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((5,)), *body])


@pytest.fixture(scope="module")
def expected(model):
    return characterize(model, X, Y, **SETTINGS)


@pytest.mark.parametrize("name", SOURCES)
def test_numbers_are_those_of_arrays(model, expected, name, tmp_path):
    settings = {**SETTINGS, "checkpoint": tmp_path / "checkpoint.json"}
    report = characterize(model, SOURCES[name](), **settings)
    assert report.to_dict() == expected.to_dict()
    # What does not fit into the memory goes through a file.
    report = characterize(model, SOURCES[name](), max_memory_bytes=100, **SETTINGS)
    assert report.gamma_hat == pytest.approx(expected.gamma_hat, abs=1e-4)  # other chunks


def test_passes_over_the_data(model, expected):
    """One to count, one for the samples of all trials, one for the robustness."""
    passes = []

    def source():
        passes.append(0)
        return factory()

    part = {"num_robustness_examples": 11}
    report = characterize(model, source, **SETTINGS, **part)
    assert len(passes) == 3
    assert report.robustness == characterize(model, X, Y, **SETTINGS, **part).robustness


def test_mapped_arrays_are_not_read_whole(model, tmp_path):
    """A sparse file of 40 GB: whoever reads it whole takes minutes."""
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(2 * 10**9, 5))
    y = np.memmap(tmp_path / "y", np.uint8, "w+", shape=(1000,))
    with pytest.raises(ValueError, match="same number of examples"):
        characterize(model, x, y, **SETTINGS)
    x = x[: 10**6]
    report = characterize(model, x, np.zeros(10**6, int), num_robustness_examples=3, **SETTINGS)
    assert report.num_examples == 10**6
    x[:] = np.nan
    with pytest.raises(ValueError, match="`x` must be finite"):
        characterize(model, x, np.zeros(10**6, int), metrics="trace", **SETTINGS)


DATASET = tf.data.Dataset.from_tensor_slices((X, Y)).batch(7)
REFUSED = {
    "infinite": (lambda: DATASET.repeat(), "finite"),
    "a generator": (factory, "more than once"),
    "weights": (lambda: DATASET.map(lambda x, y: (x, y, y)), "without sample weights"),
    "no labels": (lambda: DATASET.map(lambda x, _: x), "batches"),
    "empty": (lambda: DATASET.take(0), "at least one batch"),
    "single examples": (lambda: DATASET.unbatch(), "shape"),
    "arrays without labels": (lambda: X, "`y` must be given"),
    "ragged": (lambda: DATASET.map(lambda x, y: (tf.RaggedTensor.from_tensor(x), y)), "dense"),
    "growing": (lambda: iter_of_growing(), "same number of examples in every pass"),
}


def test_another_order_in_every_pass_is_said(model):
    shuffled = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(N, seed=1).batch(7)
    with pytest.warns(UserWarning, match="another order.*`seed` does not reproduce"):
        characterize(model, shuffled, metrics="trace", **SETTINGS)


def iter_of_growing():
    lengths = iter((3, 4, 5, 5))
    return lambda: (Batches()[i] for i in range(next(lengths)))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(model, name):
    make, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        characterize(model, make(), **SETTINGS)
    assert "\n" not in str(error.value)
