"""One step and several: the weights after training against Algorithm 1 written as loops."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from parameters import some

from infomcr_tf.regularizer import FisherRegularizedModel

ALPHA, BETA, M, RATE = 1e-2, 3.0, 4, 0.1
PARTS = {
    "plain": {},
    "batch_norm": {"batch_norm": True},
    "dropout": {"dropout": 0.4},
    "l2": {"l2": 0.0625},
    "relu": {"activation": "relu", "batch_norm": True},
}


def relative_error(found, expected):
    scale = max(np.abs(e).max() for e in expected)
    return max(np.abs(f - e).max() for f, e in zip(found, expected, strict=True)) / scale


class TestAgainstLoops:
    """float64: a step's gradient is exact to 1e-16 / alpha, with three digits for the network."""

    TOLERANCE = 1e-11

    def step(self, train, network, x, y, data_term, **options):
        start = [w.numpy() for w in network.trainable_variables]
        train(
            network,
            x,
            y,
            optimizer=keras.optimizers.SGD(RATE),
            alpha=ALPHA,
            beta=BETA,
            num_sub_batches=M,
            data_term=data_term,
            fit={"shuffle": False, **options},
        )
        return [
            (a - w.numpy()) / RATE for a, w in zip(start, network.trainable_variables, strict=True)
        ]

    @pytest.mark.parametrize("parts", some(PARTS, ["dropout", "relu"]))
    @pytest.mark.parametrize("examples", some([24, 22], [22]))
    def test_batch(self, float64, train, make_network, images, cross_entropy, parts, examples):
        parts = PARTS[parts]
        x, y = images[0][:examples].astype("float64"), images[1][:examples]
        model, expected_model = make_network(**parts), make_network(**parts)
        found = self.step(train, model, x, y, "batch")
        expected = reference.regularized_gradient(
            expected_model, cross_entropy, x, y, ALPHA, BETA, M, parts.get("l2", 0.0)
        )
        assert relative_error(found, expected) < self.TOLERANCE
        for a, b in zip(
            model.non_trainable_variables, expected_model.non_trainable_variables, strict=True
        ):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)

    @pytest.mark.parametrize("parts", some(["plain", "batch_norm"], ["batch_norm"]))
    @pytest.mark.parametrize("examples", some([24, 22], [22]))
    def test_sub_batches(
        self, float64, train, make_network, images, cross_entropy, parts, examples
    ):
        parts = PARTS[parts]
        x, y = images[0][:examples].astype("float64"), images[1][:examples]
        model, expected_model = make_network(**parts), make_network(**parts)
        found = self.step(train, model, x, y, "sub_batches")
        expected = reference.ghost_batch_gradient(
            expected_model, cross_entropy, x, y, ALPHA, BETA, M
        )
        assert relative_error(found, expected) < self.TOLERANCE
        for a, b in zip(
            model.non_trainable_variables, expected_model.non_trainable_variables, strict=True
        ):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)

    @pytest.mark.parametrize("examples", some([24, 22], [22]))
    @pytest.mark.slow
    def test_data_terms_agree_where_no_layer_couples_examples(
        self, float64, train, make_network, images, examples
    ):
        x, y = images[0][:examples].astype("float64"), images[1][:examples]
        both = [
            self.step(train, make_network(l2=0.05), x, y, term) for term in ("batch", "sub_batches")
        ]
        assert relative_error(*both) < self.TOLERANCE

    def test_sample_and_class_weights(self, float64, train, make_network, images, cross_entropy):
        x, y = images[0].astype("float64"), images[1]
        weights = np.linspace(0.1, 2.0, len(y))
        by_class = {0: 1.0, 1: 0.5, 2: 2.0, 3: 0.0}
        for options, used in (
            ({"sample_weight": weights}, weights),
            ({"class_weight": by_class}, np.array([by_class[k] for k in y])),
        ):
            found = self.step(train, make_network(), x, y, "batch", **options)
            expected = reference.regularized_gradient(
                make_network(), cross_entropy, x, y, ALPHA, BETA, M, sample_weight=used
            )
            # class weights pass through Keras in float32
            assert relative_error(found, expected) < 1e-6

    @pytest.mark.parametrize("direction", ["descent", "ascent"])
    @pytest.mark.parametrize("estimator", ["finite_difference", "hessian_vector"])
    def test_quadratic(self, float64, train, estimator, direction):
        """w - lr (grad L + beta alpha mean A_i g_i), exactly."""
        rng = np.random.default_rng(5)
        x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 1))
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        w = model.weights[0].numpy()
        train(
            model,
            x,
            y,
            loss="mse",
            optimizer=keras.optimizers.SGD(RATE),
            alpha=ALPHA,
            beta=BETA,
            num_sub_batches=2,
            estimator=estimator,
            direction=direction,
            fit={"shuffle": False},
        )
        a = [2 * p.T @ p / 4 for p in (x[:4], x[4:])]
        g = [2 * p.T @ (p @ w - q) / 4 for p, q in ((x[:4], y[:4]), (x[4:], y[4:]))]
        expected = np.mean(g, 0) + BETA * ALPHA * np.mean(
            [b @ v for b, v in zip(a, g, strict=True)], 0
        )
        np.testing.assert_allclose(model.weights[0].numpy(), w - RATE * expected, rtol=1e-12)


class TestMovingAverages:
    @pytest.mark.parametrize("data_term", some(["batch", "sub_batches"], ["sub_batches"]))
    def test_updated_once_a_step(self, train, make_network, images, data_term):
        """0.9 of the start remains after a step, however many passes it took."""
        x, y = images
        network = make_network(batch_norm=True)
        layer = next(one for one in network.layers if hasattr(one, "moving_mean"))
        start = np.full(5, 1e6, "float32")
        layer.moving_mean.assign(start)
        train(network, x, y, data_term=data_term)
        # 1e6 in float32 has a spacing of 0.06; the batch's own mean is of order 1.
        np.testing.assert_allclose(layer.moving_mean.numpy(), 0.9 * start, rtol=1e-5)

    @pytest.mark.slow
    def test_counters_move_once_a_step(self, train, images):
        class Counter(keras.layers.Layer):
            def build(self, input_shape):
                self.count = self.add_weight(shape=(), dtype="int32", trainable=False)

            def call(self, x):
                self.count.assign(self.count + 1)
                return x

        x, y = images
        for term in ("batch", "sub_batches"):
            layers = [
                keras.Input((6, 6, 2)),
                Counter(),
                keras.layers.Flatten(),
                keras.layers.Dense(4),
            ]
            model = keras.Sequential(layers)
            train(model, x, y, data_term=term, fit={"batch_size": 12, "epochs": 2})
            assert int(model.layers[0].count) == 4


class TestDropout:
    def test_a_pair_shares_its_masks(self, float64, train, images):
        """Where the masks differed, R_alpha would be of the size of the loss, not of alpha."""
        x, y = images
        model = keras.Sequential(
            [
                keras.Input((6, 6, 2)),
                keras.layers.Flatten(),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(4),
            ]
        )
        for term in ("batch", "sub_batches"):
            logs = train(model, x, y, alpha=1e-6, data_term=term).history_.history
            ratio = logs["fisher_penalty"][0] / (1e-6 * logs["mean_sub_batch_grad_norm"][0])
            assert ratio == pytest.approx(1.0, rel=1e-3)

    def test_masks_change_between_sub_batches_and_steps(self, train, make_network, images):
        """Identical examples: without fresh masks all gradients, and all steps, are alike."""
        x, y = np.repeat(images[0][:1], 24, 0), np.repeat(images[1][:1], 24, 0)
        for term in ("batch", "sub_batches"):
            network = make_network(dropout=0.5)
            optimizer = keras.optimizers.SGD(1e-30)  # never moves
            history = train(
                network,
                x,
                y,
                optimizer=optimizer,
                data_term=term,
                num_sub_batches=24,
                fit={"epochs": 4},
            ).history_.history
            assert len(set(history["mean_sub_batch_grad_norm"])) == 4


class TestLogs:
    def test_penalty_and_norm(self, train, make_network, images, cross_entropy):
        x, y = images
        network = make_network()
        _, _, norm = reference.penalty(make_network(), cross_entropy, x, y, 1e-3, 8)
        logs = train(network, x, y, alpha=1e-3, fit={"shuffle": False}).history_.history
        # R_alpha is a difference of losses of order 1: float32 leaves 1e-7 / 1e-3 of it.
        assert logs["mean_sub_batch_grad_norm"][0] == pytest.approx(norm, rel=1e-5)
        assert logs["fisher_penalty"][0] == pytest.approx(1e-3 * norm, rel=1e-2)

    def test_loss_is_the_clean_loss(self, train, make_network, images):
        x, y = images
        losses = [
            train(make_network(l2=0.1), x, y, beta=beta, data_term=term).history_.history["loss"][0]
            for beta, term in ((0.0, "batch"), (50.0, "batch"), (50.0, "sub_batches"))
        ]
        assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)

    def test_zero_while_off(self, train, make_network, images):
        logs = train(make_network(), *images, beta=0.0).history_.history
        assert logs["fisher_penalty"] == [0.0]
        assert logs["mean_sub_batch_grad_norm"] == [0.0]


class TestEveryAndFraction:
    def test_every_third_step_three_times_as_strong(self, float64, train, images):
        """On a linear loss with constant A, three plain steps and one with 3 beta."""
        x, y = images
        x = x.reshape(24, -1)[:, :3].astype("float64")
        y = y[:, None].astype("float64")
        a = 2 * x.T @ x / 24
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        w = model.weights[0].numpy()
        train(
            model,
            x,
            y,
            loss="mse",
            optimizer=keras.optimizers.SGD(RATE),
            alpha=ALPHA,
            beta=BETA,
            num_sub_batches=1,
            every=3,
            fit={"epochs": 4},
        )
        for step in range(4):
            g = 2 * x.T @ (x @ w - y) / 24
            w = w - RATE * (g + (3 * BETA * ALPHA * a @ g if step % 3 == 0 else 0))
        np.testing.assert_allclose(model.weights[0].numpy(), w, rtol=1e-11)

    @pytest.mark.parametrize("data_term", some(["batch", "sub_batches"], ["sub_batches"]))
    def test_fraction_is_unbiased(self, float64, train, images, data_term):
        """The mean of many single-sub-batch penalties is the penalty over all of them."""
        x, y = (
            images[0][:8].reshape(8, -1)[:, :3].astype("float64"),
            images[1][:8].astype("float64"),
        )
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        w = model.weights[0].numpy()
        wrapper = FisherRegularizedModel(
            model, alpha=ALPHA, beta=BETA, num_sub_batches=8, fraction=0.125, data_term=data_term
        )
        wrapper.compile(keras.optimizers.SGD(1.0), "mse")
        steps = []
        for _ in range(400):
            model.weights[0].assign(w)
            wrapper.train_on_batch(x, y[:, None])
            steps.append(w - model.weights[0].numpy())
        g = [2 * p[:, None] * (p @ w - q) for p, q in zip(x, y, strict=True)]
        extra = [2 * p[:, None] * (p @ v) for p, v in zip(x, g, strict=True)]
        expected = np.mean(g, 0) + BETA * ALPHA * np.mean(extra, 0)
        # Every step is one of 8 values.
        assert len(np.unique(np.round(np.array(steps), 9), axis=0)) == 8
        spread = np.std(steps, axis=0) / np.sqrt(400)
        assert np.all(np.abs(np.mean(steps, 0) - expected) < 5 * spread)


@pytest.mark.parametrize("data_term", some(["batch", "sub_batches"], ["batch"]))
@pytest.mark.slow
def test_graph_size_does_not_depend_on_m(make_network, images, data_term):
    sizes = []
    for m in (2, 12):
        wrapper = FisherRegularizedModel(make_network(), num_sub_batches=m, data_term=data_term)
        wrapper.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        wrapper.train_on_batch(*images)  # creates the variables
        step = tf.function(wrapper.train_step, autograph=False)
        graph = step.get_concrete_function(tuple(map(tf.constant, images))).graph.as_graph_def()
        functions = graph.library.function
        sizes.append(len(graph.node) + sum(len(f.node_def) for f in functions))
    assert sizes[0] == sizes[1]
