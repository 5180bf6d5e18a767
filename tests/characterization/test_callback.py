"""`CharacterizeCallback`: metrics during `fit`, in `History`, CSV and TensorBoard."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf
from gradients.small_networks import conv_net, images

from infomcr_tf.characterization import CharacterizeCallback, characterize
from infomcr_tf.regularizer import FisherRegularizedModel

QUICK = {"num_trials": 2, "num_samples": 6, "metrics": ["gamma_hat", "trace"]}


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    return model


def scalars(folder):
    values = {}
    for path in sorted(folder.rglob("*tfevents*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    number = float(tf.make_ndarray(value.tensor))
                    values.setdefault(value.tag, {})[event.step] = number
    return values


def test_history_csv_and_tensorboard(tmp_path):
    x, y = images(24)
    model = compiled(conv_net())
    callback = CharacterizeCallback(x, y, every=2, log_dir=tmp_path / "own", prefix="m_", **QUICK)
    history = model.fit(
        x,
        y,
        epochs=5,
        batch_size=8,
        verbose=0,
        callbacks=[
            callback,
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.TensorBoard(tmp_path / "keras"),
        ],
    ).history
    for name in ("m_gamma_hat", "m_gamma_hat_std", "m_trace"):
        assert len(history[name]) == 2
        assert np.all(np.isfinite(history[name]))
    assert list(callback.reports) == [1, 3]
    assert history["m_trace"] == [callback.reports[epoch].trace for epoch in (1, 3)]
    assert callback.reports[1].trace != callback.reports[3].trace

    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert "m_trace" not in rows[3]  # the first epoch, which gives the columns, has none
    own = scalars(tmp_path / "own")
    assert own["m_trace"] == pytest.approx(dict(zip((1, 3), history["m_trace"], strict=True)))
    assert scalars(tmp_path / "keras")["epoch_m_trace"][3] == pytest.approx(history["m_trace"][1])


def test_values_are_those_of_characterize_at_the_end_of_the_epoch():
    x, y = images(24)
    model = compiled(conv_net())
    callback = CharacterizeCallback(x, y, **QUICK)
    model.fit(x, y, epochs=2, batch_size=8, verbose=0, callbacks=[callback])
    expected = characterize(model, x, y, progress=False, per_layer=False, **QUICK)
    assert callback.reports[1].to_dict() == expected.to_dict()


@pytest.mark.parametrize(
    "wrap", [pytest.param(False, marks=pytest.mark.slow), True], ids=["plain", "regularised"]
)
def test_training_is_not_changed(wrap):
    """The same weights, bit for bit: BatchNorm, Dropout and shuffling do not see the callback."""
    x, y = images(24)

    def train(callbacks):
        model = conv_net()
        wrapped = FisherRegularizedModel(model, beta=1.0, num_sub_batches=2) if wrap else model
        compiled(wrapped)
        keras.utils.set_random_seed(5)
        wrapped.fit(x, y, epochs=2, batch_size=8, verbose=0, callbacks=callbacks)
        return model.get_weights()

    callback = CharacterizeCallback(x, y, **QUICK)
    for with_, without in zip(train([callback]), train([]), strict=True):
        np.testing.assert_array_equal(with_, without)
    assert len(callback.reports) == 2


def test_wrapped_and_inner_model_are_the_same_minimum():
    x, y = images(24)
    model = conv_net()
    wrapped = FisherRegularizedModel(model)
    settings = {"progress": False, **QUICK}
    assert (
        characterize(wrapped, x, y, **settings).to_dict()
        == characterize(model, x, y, **settings).to_dict()
    )


@pytest.mark.slow
def test_under_mirrored_strategy():
    """Two replicas; the trials run on other devices than they do."""
    x, y = images(24)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = compiled(conv_net())
    callback = CharacterizeCallback(x, y, devices=["CPU:2", "CPU:3"], **QUICK)
    model.fit(x, y, epochs=1, batch_size=8, verbose=0, callbacks=[callback])
    expected = characterize(model, x, y, progress=False, per_layer=False, **QUICK)
    assert callback.reports[0].to_dict() == expected.to_dict()


def test_bad_arguments_and_data_before_the_first_epoch():
    x, y = images(24)
    with pytest.raises(ValueError, match="`every` must be an integer >= 1"):
        CharacterizeCallback(x, y, every=0)
    with pytest.raises(ValueError, match="Did you mean 'gamma_hat'"):
        CharacterizeCallback(x, y, metrics=["gama_hat"])
    model = compiled(conv_net())
    before = model.get_weights()
    with pytest.raises(ValueError, match="without replacement"):
        model.fit(x, y, verbose=0, callbacks=[CharacterizeCallback(x, y, num_samples=100)])
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
