"""What users of Keras do with a model, done with a wrapped one."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from parameters import some

from infomcr_tf.regularizer import BetaSchedule, FisherRegularizedModel, SharpnessAwareModel

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class TestBetaZeroIsPlainKeras:
    """Bit for bit over 50 steps, logs included."""

    def train(self, network, x, y, optimizer, wrap, **fit):
        model = FisherRegularizedModel(network, beta=0.0, **wrap) if wrap else network
        model.compile(optimizer, LOSS, metrics=["accuracy"], jit_compile=False)
        keras.utils.set_random_seed(3)
        history = model.fit(x, y, verbose=0, **fit).history
        return network.get_weights(), {k: history[k] for k in ("loss", "accuracy")}

    @pytest.mark.parametrize("data_term", some(["batch", "sub_batches"], ["sub_batches"]))
    def test_batch_norm_dropout_momentum(self, make_network, images, data_term):
        x, y = images
        results = [
            self.train(
                make_network(batch_norm=True, dropout=0.3, l2=0.01, activation="relu"),
                x,
                y,
                keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
                wrap,
                batch_size=5,
                epochs=10,
            )
            for wrap in ({}, {"data_term": data_term})
        ]
        for a, b in zip(results[0][0], results[1][0], strict=True):
            np.testing.assert_array_equal(a, b)
        assert results[0][1] == results[1][1]

    @pytest.mark.slow
    def test_embedding_adam(self):
        x = np.random.default_rng(0).integers(0, 30, (40, 6))
        y = x[:, 0] % 3
        results = []
        for wrap in ({}, {"num_sub_batches": 4}):
            keras.utils.set_random_seed(1)
            layers = keras.layers
            network = keras.Sequential(
                [
                    keras.Input((6,), dtype="int32"),
                    layers.Embedding(30, 4),
                    layers.LSTM(5),
                    layers.Dense(3),
                ]
            )
            results.append(self.train(network, x, y, "adam", wrap, batch_size=8, epochs=2))
        for a, b in zip(results[0][0], results[1][0], strict=True):
            np.testing.assert_array_equal(a, b)

    def test_switched_off_again(self, make_network, images):
        """After regularised steps, a plain step is plain: only the weights have a past."""
        x, y = images
        network = make_network(batch_norm=True)
        wrapper = FisherRegularizedModel(network, num_sub_batches=4)
        wrapper.compile(keras.optimizers.SGD(0.1), LOSS)
        wrapper.train_on_batch(x, y)
        copy = keras.models.clone_model(network)
        copy.set_weights(network.get_weights())
        copy.compile(keras.optimizers.SGD(0.1), LOSS, jit_compile=False)
        wrapper.beta.assign(0.0)
        for model in (wrapper, copy):
            model.train_on_batch(x, y)
        for a, b in zip(network.get_weights(), copy.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


class TestShapesOfModels:
    @pytest.mark.parametrize("data_term", some(["batch", "sub_batches"], ["batch"]))
    @pytest.mark.slow
    def test_dict_inputs_two_outputs_loss_weights(self, float64, data_term):
        """Against one output that holds the weighted sum of the two losses."""
        rng = np.random.default_rng(0)
        x = {"a": rng.normal(size=(12, 3)), "b": rng.normal(size=(12, 2))}
        y = {"u": rng.normal(size=(12, 1)), "v": rng.normal(size=(12, 1))}

        def network():
            keras.utils.set_random_seed(0)
            a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
            h = keras.layers.Concatenate()([a, b])
            h = keras.layers.Dense(4, activation="tanh", name="h")(h)
            u = keras.layers.Dense(1, name="u")(h)
            v = keras.layers.Dense(1, name="v")(h)
            return {"a": a, "b": b}, {"u": u, "v": v}

        two = keras.Model(*network())
        inputs, outputs = network()
        one = keras.Model(inputs, keras.layers.Concatenate()([outputs["u"], outputs["v"]]))

        def weighted(y, y_pred):
            return tf.square(y - y_pred) @ tf.constant([[2.0], [0.5]], "float64")[:, 0:1]

        for model, targets, compile_options in (
            (
                two,
                y,
                {
                    "loss": {"u": "mse", "v": "mse"},
                    "loss_weights": {"u": 2.0, "v": 0.5},
                    "metrics": {"u": ["mae"]},
                },
            ),
            (one, np.concatenate([y["u"], y["v"]], 1), {"loss": weighted}),
        ):
            wrapper = FisherRegularizedModel(
                model, alpha=0.01, beta=5.0, num_sub_batches=4, data_term=data_term
            )
            wrapper.compile(keras.optimizers.SGD(0.1), **compile_options)
            history = wrapper.fit(x, targets, batch_size=12, epochs=2, shuffle=False, verbose=0)
            if model is two:
                assert {"u_loss", "v_loss", "u_mae"} <= set(history.history)
        weights = {v.path: v.numpy() for v in two.weights}
        for v in one.weights:
            # loss weights pass through float32 constants that are exact
            np.testing.assert_allclose(v.numpy(), weights[v.path], rtol=1e-9, err_msg=v.path)

    def test_subclassed_unbuilt_model(self, images, train):
        class Network(keras.Model):
            def __init__(self):
                super().__init__()
                self.flatten = keras.layers.Flatten()
                self.dense = keras.layers.Dense(4)

            def call(self, x):
                return self.dense(self.flatten(x))

        x, y = images
        for options in ({}, {"data_term": "sub_batches"}):
            network = Network()
            wrapper = train(network, x, y, **options, fit={"batch_size": 12})
            assert wrapper.history_.history["mean_sub_batch_grad_norm"][0] > 0
            assert wrapper.predict(x, verbose=0).shape == (24, 4)

    def test_frozen_layers_stay_and_count_nothing(self, float64, make_network, images, train):
        """A frozen layer is the same as a network without it, on its outputs."""
        x, y = images[0].astype("float64"), images[1]
        network = make_network(batch_norm=True)
        for layer in network.layers[:-1]:
            layer.trainable = False
        features = keras.Model(network.input, network.layers[-2].output).predict(x, verbose=0)
        head = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
        head.set_weights(network.layers[-1].get_weights())
        before = [w.numpy() for w in network.non_trainable_weights]
        norms = []
        for model, inputs in ((network, x), (head, features)):
            wrapper = train(model, inputs, y, alpha=0.01, fit={"shuffle": False})
            norms.append(wrapper.history_.history["mean_sub_batch_grad_norm"][0])
        assert norms[0] == pytest.approx(norms[1], rel=1e-12)
        for a, b in zip(network.layers[-1].get_weights(), head.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10)
        for value, variable in zip(before, network.non_trainable_weights, strict=True):
            np.testing.assert_array_equal(value, variable.numpy())

    def test_added_losses_stay_outside_the_penalty(self, images, train):
        """An activity regulariser moves the loss, not the penalty; it cannot be cut into parts."""

        def network(strength):
            keras.utils.set_random_seed(0)
            layers = [keras.Input((6, 6, 2)), keras.layers.Flatten()]
            return keras.Sequential(
                [
                    *layers,
                    keras.layers.Dense(4, activity_regularizer=keras.regularizers.L2(strength)),
                ]
            )

        x, y = images
        logs = [
            train(network(s), x, y, alpha=0.01, fit={"shuffle": False}).history_.history
            for s in (1e-6, 1.0)
        ]
        assert logs[1]["loss"][0] > logs[0]["loss"][0] + 0.1
        assert logs[1]["fisher_penalty"] == logs[0]["fisher_penalty"]
        with pytest.raises(ValueError, match="`data_term` must be 'batch' or 'auto'"):
            train(network(1.0), x, y, data_term="sub_batches")


class TestData:
    def test_arrays_dataset_and_py_dataset_are_the_same(self, make_network, images, train):
        x, y = images

        class Batches(keras.utils.PyDataset):
            def __len__(self):
                return 2

            def __getitem__(self, i):
                return x[12 * i : 12 * i + 12], y[12 * i : 12 * i + 12]

        data_set = tf.data.Dataset.from_tensor_slices((x, y)).batch(12)
        results = []
        for arguments, fit in (
            ((x, y), {"batch_size": 12, "shuffle": False}),
            ((data_set, None), {}),
            ((Batches(), None), {"shuffle": False}),
        ):
            network = make_network()
            wrapper = FisherRegularizedModel(network, num_sub_batches=4)
            wrapper.compile(keras.optimizers.SGD(0.1), LOSS)
            wrapper.fit(*arguments, verbose=0, **fit)
            results.append(network.get_weights())
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)

    @pytest.mark.slow
    def test_sparse_and_one_hot_labels(self, float64, make_network, images, train):
        x, y = images
        a, b = make_network(), make_network()
        train(a, x, y, alpha=0.01, fit={"shuffle": False})
        one_hot = keras.losses.CategoricalCrossentropy(from_logits=True)
        train(b, x, np.eye(4)[y], alpha=0.01, loss=one_hot, fit={"shuffle": False})
        for v, w in zip(a.get_weights(), b.get_weights(), strict=True):
            np.testing.assert_allclose(v, w, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize(
        "modes",
        [
            ("several", "by hand"),
            pytest.param(("one", "several", "eagerly", "by XLA"), marks=pytest.mark.slow),
        ],
    )
    def test_steps_per_execution_and_train_on_batch(self, make_network, images, modes):
        x, y = images
        results = []
        for mode in modes:
            network = make_network(batch_norm=True)
            wrapper = FisherRegularizedModel(network, num_sub_batches=4)
            wrapper.compile(
                keras.optimizers.SGD(0.1, momentum=0.9),
                LOSS,
                steps_per_execution=2 if mode == "several" else 1,
                run_eagerly=mode == "eagerly",
                jit_compile=mode == "by XLA",
            )
            if mode == "by hand":
                for i in range(4):
                    wrapper.train_on_batch(x[6 * i : 6 * i + 6], y[6 * i : 6 * i + 6])
            else:
                wrapper.fit(x, y, batch_size=6, shuffle=False, verbose=0)
            results.append(network.get_weights())
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                # float32, and a penalty whose difference keeps 1e-7 / alpha = 1e-3 of itself
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


class TestLogs:
    def test_validation_has_no_penalty(self, make_network, images):
        x, y = images
        wrapper = FisherRegularizedModel(make_network(), num_sub_batches=4)
        wrapper.compile(keras.optimizers.SGD(0.1), LOSS, metrics=["accuracy"])
        history = wrapper.fit(x, y, epochs=2, verbose=0, validation_data=(x, y)).history
        own = {"fisher_penalty", "mean_sub_batch_grad_norm"}
        assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy", *own}
        assert all(value > 0 for name in own for value in history[name])
        for found in (
            wrapper.evaluate(x, y, verbose=0, return_dict=True),
            wrapper.test_on_batch(x, y, return_dict=True),
        ):
            assert set(found) == {"loss", "accuracy"}
        assert len(wrapper.evaluate(x, y, verbose=0)) == 2

    @pytest.mark.parametrize("every", some([1, 2], [2]))
    @pytest.mark.parametrize("data_term", some(["batch", "sub_batches"], ["batch"]))
    def test_masks_reach_metrics(self, data_term, every):
        """Also where a branch in the graph decides whether the penalty acts."""
        tokens = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [1, 2, 3, 4], [2, 0, 0, 0]])
        labels = np.where(tokens == 0, 0, 1)  # right wherever the mask is
        layers = keras.layers
        network = keras.Sequential(
            [keras.Input((4,)), layers.Embedding(5, 2, mask_zero=True), layers.Dense(2)]
        )
        network.layers[-1].set_weights([np.zeros((2, 2)), np.array([0.0, 1.0])])
        wrapper = FisherRegularizedModel(
            network, num_sub_batches=2, data_term=data_term, every=every
        )
        wrapper.compile(keras.optimizers.SGD(0.0), LOSS, metrics=["accuracy"])
        history = wrapper.fit(tokens, labels, batch_size=4, epochs=2, verbose=0).history
        assert history["accuracy"] == [1.0, 1.0]
        assert history["loss"] == pytest.approx([np.log1p(np.exp(-1))] * 2, rel=1e-6)


QUADRATIC_OPTIMIZERS = {
    "AdamW": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "clipnorm": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.1),
    "clipvalue+ema": lambda: keras.optimizers.Adam(
        0.01, clipvalue=0.01, use_ema=True, ema_momentum=0.5
    ),
    "accumulation": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
}


class TestOptimizersAndCallbacks:
    @pytest.mark.parametrize("name", some(QUADRATIC_OPTIMIZERS, ["AdamW", "accumulation"]))
    def test_on_a_quadratic(self, float64, name):
        """The penalty of an M = 1 quadratic is a gradient the plain optimizer can be given."""
        make = QUADRATIC_OPTIMIZERS[name]
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 1))
        network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        start = tf.Variable(network.weights[0].numpy())
        wrapper = FisherRegularizedModel(network, alpha=0.01, beta=7.0, num_sub_batches=1)
        wrapper.compile(make(), "mse")
        wrapper.fit(x, y, batch_size=8, epochs=4, verbose=0)
        by_hand, variable = make(), keras.Variable(start.numpy())
        for _ in range(4):
            w = variable.numpy()
            g = 2 * x.T @ (x @ w - y) / 8
            total = g + 0.07 * (2 * x.T @ x / 8) @ g
            scale = (
                float(by_hand.scale_loss(1.0))
                if by_hand.built
                else by_hand_scale(by_hand, variable)
            )
            by_hand.apply_gradients([(tf.constant(total * scale), variable)])
        if by_hand.use_ema:
            by_hand.finalize_variable_values([variable])
        np.testing.assert_allclose(network.weights[0].numpy(), variable.numpy(), rtol=1e-6)

    def test_callbacks_that_need_the_optimizer(self, make_network, images, tmp_path):
        x, y = images
        wrapper = FisherRegularizedModel(make_network(), num_sub_batches=4)
        wrapper.compile(keras.optimizers.SGD(0.1), LOSS, metrics=["accuracy"])
        callbacks = [
            keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, min_delta=10, patience=1),
            BetaSchedule(),
            keras.callbacks.ModelCheckpoint(tmp_path / "w.keras"),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        ]
        history = wrapper.fit(
            x, y, batch_size=12, epochs=4, verbose=0, validation_data=(x, y), callbacks=callbacks
        ).history
        assert history["beta"] == [0.0, 0.0, 10.0, 10.0]
        header = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
        assert {"beta", "learning_rate", "fisher_penalty", "mean_sub_batch_grad_norm"} <= set(
            header
        )
        assert keras.saving.load_model(tmp_path / "w.keras").num_sub_batches == 4


def by_hand_scale(optimizer, variable):
    """What the optimizer multiplies a loss by, building it as `compile` does."""
    optimizer.build([variable])
    return float(optimizer.scale_loss(1.0))


class TestBaselines:
    @pytest.mark.slow
    def test_m_1_on_a_quadratic_is_sam(self, float64):
        """With rho = alpha beta ||g||: both step by g + alpha beta A g."""
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 1))
        ends = []
        for make in (
            lambda model, _: FisherRegularizedModel(model, alpha=0.01, beta=5.0, num_sub_batches=1),
            lambda model, norm: SharpnessAwareModel(model, rho=0.01 * 5.0 * norm),
            lambda model, norm: SharpnessAwareModel(model, rho=1e-3, beta=0.05 * norm / 1e-3),
        ):
            keras.utils.set_random_seed(0)
            network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
            w = network.weights[0].numpy()
            norm = float(np.linalg.norm(2 * x.T @ (x @ w - y) / 8))
            wrapper = make(network, norm)
            wrapper.compile(keras.optimizers.SGD(0.1), "mse")
            wrapper.train_on_batch(x, y)
            ends.append(network.weights[0].numpy())
        np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12)
        # The penalty lambda ||g||: exact on a quadratic but for 1e-16 / rho, and three digits.
        np.testing.assert_allclose(ends[0], ends[2], rtol=1e-8)

    def test_sam_is_the_gradient_at_the_perturbed_weights(
        self, float64, make_network, images, cross_entropy
    ):
        x, y = images
        network, copy = make_network(batch_norm=True), make_network(batch_norm=True)

        def gradient():
            with tf.GradientTape() as tape:
                loss = cross_entropy(y, copy(x, training=True))
            return tape.gradient(loss, copy.trainable_variables)

        start = [w.numpy() for w in copy.trainable_variables]
        g = gradient()
        norm = np.sqrt(sum(np.sum(np.square(v)) for v in g))
        for w, v in zip(copy.trainable_variables, g, strict=True):
            w.assign_add(0.05 * v / norm)
        expected = [w - 0.1 * v for w, v in zip(start, gradient(), strict=True)]
        wrapper = SharpnessAwareModel(network, rho=0.05)
        wrapper.compile(keras.optimizers.SGD(0.1), cross_entropy)
        wrapper.fit(x, y, batch_size=24, shuffle=False, verbose=0)
        for w, v in zip(network.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(w.numpy(), v, rtol=1e-9, atol=1e-12)
