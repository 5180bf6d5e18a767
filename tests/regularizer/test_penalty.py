"""R_alpha and its gradient: other implementations, closed forms, invariances, bad input."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from parameters import some

from infomcr_tf.regularizer import fisher_penalty


def relative_error(found, expected):
    """Largest error of any entry over the largest entry, over all the arrays."""
    scale = max(np.abs(e).max() for e in expected)
    return max(np.abs(f - e).max() for f, e in zip(found, expected, strict=True)) / scale


def gradients_like(model, numbers, prefix):
    return [numbers[f"{prefix}/{v.path}"] for v in model.trainable_variables]


class TestOtherImplementations:
    def test_float64_agrees_with_an_independent_implementation(
        self, float64, net_a, numbers, cross_entropy
    ):
        model = net_a(numbers)
        penalty, gradients = fisher_penalty(
            model,
            numbers["images"].astype("float64"),
            numbers["labels"],
            loss=cross_entropy,
            alpha=0.01,
            num_sub_batches=4,
        )
        # Forward and backward in float64 lose some 1e3 units of 1e-16; the difference of two
        # gradients that agree to alpha |H| = 1e-2 loses two digits more.
        assert float(penalty) == pytest.approx(
            float(numbers["float64/penalty_alpha0.01"]), rel=1e-11
        )
        expected = gradients_like(model, numbers, "float64/dpenalty_fd_alpha0.01")
        assert relative_error(gradients, expected) < 1e-11

    def test_float32_agrees_with_the_authors_code(self, net_a, numbers, cross_entropy):
        model = net_a(numbers)
        penalty, gradients = fisher_penalty(
            model,
            numbers["images"],
            numbers["labels"],
            loss=cross_entropy,
            alpha=0.01,
            num_sub_batches=4,
        )
        # Both are float32: each is within 2e-5 of the float64 gradient, the penalty within 2e-6.
        assert float(penalty) == pytest.approx(
            float(numbers["authors/penalty_alpha0.01"]), rel=4e-6
        )
        expected = gradients_like(model, numbers, "authors/dpenalty_alpha0.01")
        assert relative_error(gradients, expected) < 4e-5

    @pytest.mark.parametrize("alpha", some(["0.0001", "0.01"], ["0.0001"]))
    @pytest.mark.parametrize(
        ("estimator", "key"), [("finite_difference", "fd"), ("hessian_vector", "hvp")]
    )
    def test_shared_reference_numbers(
        self, float64, net_a, shared_dir, cross_entropy, estimator, key, alpha
    ):
        weights = np.load(shared_dir / "reference" / "net_a_authors.npz")
        expected = np.load(shared_dir / "reference" / "net_a_float64.npz")
        model = net_a(weights)
        _, gradients = fisher_penalty(
            model,
            weights["images"].astype("float64"),
            weights["labels"],
            loss=cross_entropy,
            alpha=float(alpha),
            num_sub_batches=4,
            estimator=estimator,
        )
        # The finite difference loses log10(1/alpha) of 16 digits, and about three to the network.
        tolerance = 1e-13 / float(alpha) if key == "fd" else 1e-12
        wanted = gradients_like(model, expected, f"dpenalty_{key}_alpha{alpha}")
        assert relative_error(gradients, wanted) < tolerance

    @pytest.mark.parametrize("direction", some(["descent", "ascent"], ["descent"]))
    @pytest.mark.parametrize("parts", [{}, {"batch_norm": True, "dropout": 0.5}])
    def test_float64_loop(self, float64, make_network, images, cross_entropy, parts, direction):
        x, y = images
        model = make_network(**parts)
        weight = np.linspace(0.5, 2.0, len(y))
        found = fisher_penalty(
            model,
            x,
            y,
            loss=cross_entropy,
            alpha=1e-3,
            num_sub_batches=5,
            sample_weight=weight,
            direction=direction,
        )
        sign = -1.0 if direction == "descent" else 1.0
        value, gradients, _ = reference.penalty(model, cross_entropy, x, y, 1e-3, 5, weight, sign)
        # 1e-16 (a thousand roundings) / alpha
        assert float(found[0]) == pytest.approx(value, rel=1e-10)
        assert relative_error(found[1], gradients) < 1e-10


class TestClosedForms:
    def quadratic(self, num_sub_batches):
        """Least squares: L(B_i, w) = |X_i w - y_i|^2 / b, so A_i = 2 X_i^T X_i / b."""
        rng = np.random.default_rng(3)
        x, y = rng.normal(size=(12, 4)), rng.normal(size=(12, 1))
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
        w = model.weights[0].numpy()
        parts = list(zip(np.split(x, num_sub_batches), np.split(y, num_sub_batches), strict=True))
        hessians = [2 * a.T @ a / len(a) for a, _ in parts]
        g = [2 * a.T @ (a @ w - b) / len(a) for a, b in parts]
        return model, x, y, hessians, g

    @pytest.mark.parametrize("estimator", ["finite_difference", "hessian_vector"])
    @pytest.mark.parametrize("direction", ["descent", "ascent"])
    @pytest.mark.parametrize("num_sub_batches", [1, 3, 12])
    def test_quadratic(self, float64, estimator, direction, num_sub_batches):
        model, x, y, hessians, g = self.quadratic(num_sub_batches)
        alpha = 0.05
        penalty, (gradient,) = fisher_penalty(
            model,
            x,
            y,
            loss="mean_squared_error",
            alpha=alpha,
            num_sub_batches=num_sub_batches,
            estimator=estimator,
            direction=direction,
        )
        pairs = list(zip(hessians, g, strict=True))
        expected = alpha * np.mean([a @ v for a, v in pairs], axis=0)
        np.testing.assert_allclose(gradient, expected, rtol=1e-12)
        second_order = {"descent": -0.5, "ascent": 0.5}[direction]
        second_order *= estimator == "finite_difference"
        value = np.mean([alpha * v.T @ v + second_order * alpha**2 * v.T @ a @ v for a, v in pairs])
        assert float(penalty) == pytest.approx(value, rel=1e-12)

    def test_single_examples_give_the_trace(self, float64, make_network, images, cross_entropy):
        x, y = images
        model = make_network()
        gradients = reference.per_example_gradients(model, x, y)
        penalty, _ = fisher_penalty(
            model, x, y, loss=cross_entropy, num_sub_batches=len(y), estimator="hessian_vector"
        )
        assert float(penalty) == pytest.approx(1e-4 * np.mean(np.sum(gradients**2, 1)), rel=1e-10)

    def test_estimators_agree_on_a_smooth_network(
        self, float64, make_network, images, cross_entropy
    ):
        x, y = images
        model = make_network(batch_norm=True)
        norms = []
        for alpha in (1e-2, 1e-3, 1e-4):
            both = [
                fisher_penalty(
                    model, x, y, loss=cross_entropy, alpha=alpha, num_sub_batches=4, estimator=e
                )[1]
                for e in ("finite_difference", "hessian_vector")
            ]
            norms.append(relative_error(*both))
        # The finite difference's error is of first order in alpha.
        assert norms[0] < 0.1
        assert norms[1] / norms[0] == pytest.approx(0.1, rel=0.2)
        assert norms[2] / norms[1] == pytest.approx(0.1, rel=0.2)

    @pytest.mark.parametrize(
        "layer",
        [
            lambda: keras.layers.BatchNormalization(),
            lambda: keras.layers.LayerNormalization(),
            lambda: keras.layers.GroupNormalization(2),
        ],
    )
    def test_hessian_through_normalisation(self, float64, layer):
        """alpha H g against central differences of the gradient along g."""
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(8, activation="tanh"),
                layer(),
                keras.layers.Dense(4),
            ]
        )

        def gradient():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(y - model(x, training=True)))
            return tape.gradient(loss, model.trainable_variables)

        _, found = fisher_penalty(
            model,
            x,
            y,
            loss="mean_squared_error",
            alpha=1.0,
            num_sub_batches=1,
            estimator="hessian_vector",
        )
        start, g, step = [w.numpy() for w in model.trainable_variables], gradient(), 1e-6
        ends = []
        for sign in (1, -1):
            for w, w0, g_w in zip(model.trainable_variables, start, g, strict=True):
                w.assign(w0 + sign * step * g_w)
            ends.append(gradient())
        expected = [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]
        # Central differences: step^2 = 1e-12 times a third derivative of truncation, 1e-16 / step
        # = 1e-10 of rounding. Without the exact moments the error is 0.1 and more.
        assert relative_error(found, expected) < 1e-6


class TestInvariances:
    def test_order_within_and_of_sub_batches(self, float64, make_network, images, cross_entropy):
        x, y = images
        model = make_network(batch_norm=True)
        order = np.arange(24).reshape(4, 6)[[2, 0, 3, 1]][:, ::-1].ravel()
        results = [
            fisher_penalty(model, x[i], y[i], loss=cross_entropy, num_sub_batches=4)
            for i in (slice(None), order)
        ]
        assert float(results[0][0]) == pytest.approx(float(results[1][0]), rel=1e-10)
        assert relative_error(results[0][1], results[1][1]) < 1e-9

    def test_left_over_examples_do_not_count(self, float64, make_network, images, cross_entropy):
        x, y = images
        model = make_network()
        a = fisher_penalty(model, x[:23], y[:23], loss=cross_entropy, num_sub_batches=4)
        b = fisher_penalty(model, x[:20], y[:20], loss=cross_entropy, num_sub_batches=4)
        assert float(a[0]) == float(b[0])

    def test_leaves_the_model_as_it_was(self, make_network, images, cross_entropy):
        x, y = images
        model = make_network(batch_norm=True, dropout=0.5, l2=0.01)
        before = [v.numpy() for v in model.variables]
        fisher_penalty(model, x, y, loss=cross_entropy)
        for value, variable in zip(before, model.variables, strict=True):
            np.testing.assert_array_equal(value, variable.numpy())

    def test_l2_is_not_in_it(self, make_network, images, cross_entropy):
        x, y = images
        with_l2, without = (
            fisher_penalty(make_network(l2=l2), x, y, loss=cross_entropy) for l2 in (0.1, 0.0)
        )
        assert float(with_l2[0]) == float(without[0])

    @pytest.mark.slow
    def test_in_a_graph_with_unknown_batch(self, float64, make_network, images, cross_entropy):
        x, y = images
        model = make_network()

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 6, 6, 2], "float64"),
                tf.TensorSpec([None], "int64"),
            ]
        )
        def graph(x, y):
            return fisher_penalty(model, x, y, loss=cross_entropy, alpha=0.01)

        expected = fisher_penalty(model, x, y, loss=cross_entropy, alpha=0.01)
        penalty, gradients = graph(x.astype("float64"), y)
        assert float(penalty) == pytest.approx(float(expected[0]), rel=1e-11)
        assert relative_error(gradients, expected[1]) < 1e-10
        with pytest.raises(tf.errors.InvalidArgumentError, match="num_sub_batches"):
            graph(x[:7].astype("float64"), y[:7])


class TestLosses:
    def test_label_smoothing_and_one_hot(self, float64, make_network, images):
        x, y = images
        model = make_network()
        smooth = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
        plain = keras.losses.CategoricalCrossentropy(from_logits=True)
        one_hot = np.eye(4)[y]
        a = fisher_penalty(model, x, one_hot, loss=smooth)
        b = fisher_penalty(model, x, 0.8 * one_hot + 0.05, loss=plain)
        assert float(a[0]) == pytest.approx(float(b[0]), rel=1e-9)

    def test_name_function_and_object_are_the_same(self, make_network, images, cross_entropy):
        x, y = images
        model = make_network()

        def function(y, y_pred):
            return keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)

        values = [
            float(fisher_penalty(model, x, y, loss=one)[0]) for one in (function, cross_entropy)
        ]
        assert values[0] == pytest.approx(values[1], rel=1e-5)
        by_name = fisher_penalty(model, x, np.eye(4)[y], loss="mean_squared_error")
        by_object = fisher_penalty(model, x, np.eye(4)[y], loss=keras.losses.MeanSquaredError())
        assert float(by_name[0]) == float(by_object[0])


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"alpha": 0.0}, r"`alpha` must be a finite number above 0. Received: alpha=0.0"),
            ({"alpha": float("nan")}, "`alpha`"),
            ({"num_sub_batches": 0}, "`num_sub_batches` must be an integer >= 1"),
            ({"num_sub_batches": 2.0}, "`num_sub_batches`"),
            ({"num_sub_batches": 25}, "num_sub_batches=25 for a batch of 24 examples"),
            ({"estimator": "finite_diference"}, "Did you mean 'finite_difference'"),
            ({"direction": "up"}, "`direction` must be one of 'descent', 'ascent'"),
            ({"loss": 3}, "3"),
        ],
    )
    def test_message(self, make_network, images, cross_entropy, options, message):
        x, y = images
        with pytest.raises(ValueError, match=message) as caught:
            fisher_penalty(make_network(), x, y, **{"loss": cross_entropy, **options})
        assert "\n" not in str(caught.value)
