"""MirroredStrategy on logical CPU devices."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from parameters import some

from infomcr_tf.regularizer import FisherRegularizedModel

LOSS = {"from_logits": True}


def mirrored(replicas):
    """A strategy that sums on one device: collective groups cannot change size in a process."""
    devices = [f"CPU:{i}" for i in range(replicas)]
    return tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())


def train(make_network, images, replicas, steps, parts, **options):
    """Ten steps or so with momentum on the first `replicas` devices."""
    x, y = images
    with mirrored(replicas).scope():
        network = make_network(**parts)
        wrapper = FisherRegularizedModel(network, **options)
        wrapper.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(**LOSS),
        )
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8, drop_remainder=True).repeat()
    history = wrapper.fit(data, steps_per_epoch=steps, verbose=0).history
    return network, wrapper, history


class TestWithoutBatchNorm:
    @pytest.mark.parametrize(
        ("data_term", "numbers"),
        [
            ("sub_batches", (1, 2)),
            pytest.param("batch", (1, 2, 4), marks=pytest.mark.slow),
            pytest.param("sub_batches", (1, 4), marks=pytest.mark.slow),
        ],
    )
    def test_same_weights_on_one_and_several(
        self, float64, make_network, images, data_term, numbers
    ):
        """Replicas hold the same sub-batches: the sums differ in their order alone."""
        images = images[0].astype("float64"), images[1]
        results = [
            train(
                make_network,
                images,
                replicas,
                10,
                {"l2": 0.0625},
                alpha=0.01,
                beta=5.0,
                num_sub_batches=4,
                data_term=data_term,
            )
            for replicas in numbers
        ]
        for network, _, history in results[1:]:
            for a, b in zip(results[0][0].get_weights(), network.get_weights(), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
            for key in ("loss", "fisher_penalty", "mean_sub_batch_grad_norm"):
                assert history[key] == pytest.approx(results[0][2][key], rel=1e-10)

    @pytest.mark.slow
    def test_float32(self, make_network, images):
        """rtol 1e-6 with alpha large enough for the penalty's own rounding, 1e-7 / alpha."""
        options = {"alpha": 1.0, "beta": 0.1, "num_sub_batches": 4}
        results = [train(make_network, images, r, 10, {}, **options)[0] for r in (1, 2)]
        for a, b in zip(results[0].get_weights(), results[1].get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)

    def test_step_against_loops(self, float64, make_network, images, cross_entropy):
        """One step on two replicas is Algorithm 1 on the whole batch."""
        x, y = images[0][:8].astype("float64"), images[1][:8]
        expected = make_network()
        start = [w.numpy() for w in expected.trainable_variables]
        gradient = reference.regularized_gradient(expected, cross_entropy, x, y, 0.01, 5.0, 4)
        network, _, _ = train(
            make_network, (x, y), 2, 1, {}, alpha=0.01, beta=5.0, num_sub_batches=4
        )
        for w, w0, g in zip(network.trainable_variables, start, gradient, strict=True):
            np.testing.assert_allclose(w.numpy(), w0 - 0.1 * g, rtol=1e-10, atol=1e-13)


class TestWithBatchNorm:
    def local_values(self, wrapper, variable):
        return [
            v.numpy()
            for v in wrapper.distribute_strategy.experimental_local_results(variable.value)
        ]

    def test_moving_averages_are_the_mean_over_replicas(
        self, float64, make_network, images, tmp_path
    ):
        """Each replica normalises by its own half; what is saved is the mean of the two."""
        x, y = images[0][:8].astype("float64"), images[1][:8]
        network, wrapper, _ = train(
            make_network, (x, y), 2, 1, {"batch_norm": True}, alpha=0.01, num_sub_batches=4
        )
        single = make_network(batch_norm=True)
        layer, expected = (
            next(one for one in model.layers if hasattr(one, "moving_mean"))
            for model in (network, single)
        )
        halves = []
        for half in (x[:4], x[4:]):
            before = single.get_weights()
            single(half, training=True)
            halves.append([expected.moving_mean.numpy(), expected.moving_variance.numpy()])
            single.set_weights(before)
        for variable, values in zip(
            (layer.moving_mean, layer.moving_variance), np.mean(halves, 0), strict=True
        ):
            for local in self.local_values(wrapper, variable):
                np.testing.assert_allclose(local, values, rtol=1e-10)
        network.save(tmp_path / "plain.keras")
        saved = keras.saving.load_model(tmp_path / "plain.keras")
        for a, b in zip(saved.get_weights(), network.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_synchronized_layers_keep_to_the_global_batch(self, float64, make_network, images):
        """The clean pass shares its statistics; the sub-batches keep their own."""
        images = images[0].astype("float64"), images[1]
        parts = {"batch_norm": True, "synchronized": True}
        results = [
            train(make_network, images, r, 3, parts, alpha=0.01, beta=5.0, num_sub_batches=4)
            for r in (1, 2)
        ]
        for a, b in zip(results[0][0].weights, results[1][0].weights, strict=True):
            # float64 but for E(x^2) - E(x)^2, by which synchronized layers take the variance
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-12)
        layers = results[1][0].layers
        assert all(layer.synchronized for layer in layers if hasattr(layer, "synchronized"))


@pytest.mark.slow
def test_plain_step_is_plain_keras(make_network, images):
    """beta = 0 on two replicas."""
    x, y = images
    results = []
    for wrap in (False, True):
        with mirrored(2).scope():
            network = make_network()
            model = FisherRegularizedModel(network, beta=0.0) if wrap else network
            model.compile(
                keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(**LOSS)
            )
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        results.append(network.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("data_term", some(["batch", "sub_batches"], ["batch"]))
@pytest.mark.slow
def test_losses_that_return_a_scalar(make_network, images, data_term):
    """Keras would not divide it by the replicas; alone it is as good as any."""

    def scalar(y, y_pred):
        return tf.reduce_mean(
            keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)
        )

    x, y = images
    for replicas in (1, 2):
        with mirrored(replicas).scope():
            wrapper = FisherRegularizedModel(make_network(), num_sub_batches=4, data_term=data_term)
            wrapper.compile("sgd", scalar)
        if replicas == 1:
            wrapper.fit(x, y, batch_size=8, verbose=0)
            continue
        with pytest.raises(ValueError, match="`loss` must return one value an example") as caught:
            wrapper.fit(x, y, batch_size=8, verbose=0)
        assert "\n" not in str(caught.value)
