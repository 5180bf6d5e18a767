"""`characterize` from end to end: numbers, settings, bad input, no side effects."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from gradients.small_networks import conv_net, equalising_condition, images, saturated
from parameters import some

from infomcr_tf.characterization import (
    METRICS,
    Metric,
    MinimumReport,
    characterize,
    gram_matrix,
    register_metric,
)
from infomcr_tf.gradients import GradientEngine
from infomcr_tf.gradients.network import Network

# One sample that is all of S: its numbers do not depend on the order in which it is drawn.
WHOLE = {"num_trials": 1, "progress": False}


@pytest.fixture(scope="module")
def model():
    return conv_net()


@pytest.fixture(scope="module")
def data():
    return images(12)


def quick(model, data, **settings):
    """A few trials of the metrics that cost little."""
    settings = {"num_trials": 3, "num_samples": 6, "progress": False, **settings}
    return characterize(model, *data, **{"metrics": ["gamma_hat", "trace"], **settings})


def by_definition(J):
    """Every metric of one sample from its float64 Jacobian."""
    n = len(J)
    fisher = J.T @ J / n
    eigenvalues = np.linalg.eigvalsh(J @ J.T)
    return {
        "gamma_hat": np.linalg.slogdet(J @ J.T)[1],
        "spectral_radius": np.linalg.norm(J, 2) ** 2,
        "fisher_spectral_radius": np.linalg.norm(fisher, 2),
        "frobenius_norm": np.mean([np.sum(np.outer(g, g) ** 2) for g in J]),
        "frobenius_norm_cross": np.sum(fisher**2),
        "trace": np.trace(fisher),
        "rank": n,
        "am_gm_gap": eigenvalues.mean() / n - np.exp(np.mean(np.log(eigenvalues))) / n,
        "am_gm_bound": np.sqrt(n - 1) * eigenvalues.std() / n,
    }


@pytest.fixture
def registered():
    """`registered(function)`: makes a function of a trial a metric, for the length of a test."""
    names = []

    def register(function):
        names.append(f"metric_{len(names)}")
        register_metric(Metric(name=names[-1], title="of a test", compute=function))
        return names[-1]

    yield register
    for name in names:
        METRICS.unregister(name)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"normalize_logits": 0.04}, marks=pytest.mark.slow),
        pytest.param({"equalize_loss": 0.01}, marks=pytest.mark.slow),
    ],
    ids=["plain", "normalised", "equalised"],
)
def test_every_metric_against_float64_one_example_at_a_time(model, settings):
    x, y = images(8)
    y = model.predict(x, verbose=0).argmax(axis=1) if "equalize_loss" in settings else y
    every = [name for name in METRICS if not name.startswith("hessian_")]
    report = characterize(model, x, y, num_samples=8, metrics=every, **WHOLE, **settings)
    copy = reference.float64_copy(model)
    x = x.astype(np.float64)
    expected = by_definition(reference.per_example_gradients(copy, x, y, **settings))
    # A row of J has a relative error of some hundred float32 roundings (6e-8), and the fourth power
    # of its norm four times that; in the determinant every one of the 8 rows counts. A temperature
    # is the inverse of a margin, whose rounding is that of the logits.
    condition = float(max(equalising_condition(model, x))) if "equalize_loss" in settings else 0
    tolerance = 1e-4 * (1 + condition)
    for name, value in expected.items():
        assert getattr(report, name) == pytest.approx(value, rel=tolerance), name
    inputs = reference.input_jacobians(copy, x, y, **settings)
    norms = [np.linalg.norm(J, 2) ** 2 for J in inputs]
    assert report.robustness == pytest.approx(np.mean(norms), rel=tolerance)
    assert report.robustness_std == pytest.approx(np.std(norms), rel=tolerance)
    losses = -tf.nn.log_softmax(copy(x)).numpy()[np.arange(8), y]
    assert report.train_loss == pytest.approx(losses.mean(), rel=1e-5)
    # The estimate by sampled entries: unbiased, and its standard error follows from its square.
    assert report.frobenius_norm_sampled == pytest.approx(report.frobenius_norm, rel=0.2)


def test_mean_over_trials_is_that_of_the_samples(model, data):
    """Each trial is a sample without replacement whose own numbers make the mean."""
    report = quick(model, data)
    assert report.trials["gamma_hat"].shape == (3,)
    assert len(set(report.trials["trace"])) == 3
    assert report.gamma_hat == np.mean(report.trials["gamma_hat"])
    assert report.gamma_hat_std == np.std(report.trials["gamma_hat"])


def test_seed_reproduces_and_more_trials_extend(model, data):
    first, again = quick(model, data, seed=5), quick(model, data, seed=5)
    assert first.to_dict() == again.to_dict()
    more = quick(model, data, seed=5, num_trials=5)
    np.testing.assert_array_equal(more.trials["trace"][:3], first.trials["trace"])
    assert quick(model, data, seed=6).trace != first.trace


def test_chunks_and_order_of_the_examples_do_not_matter(model, data):
    x, y = data
    whole = quick(model, data, num_samples=12, num_trials=1)
    chunked = quick(model, data, num_samples=12, num_trials=1, chunk_size=5)
    reversed_ = quick(model, (x[::-1], y[::-1]), num_samples=12, num_trials=1)
    # Float32 rounding of J once more, in another order.
    for other in (chunked, reversed_):
        assert other.gamma_hat == pytest.approx(whole.gamma_hat, abs=1e-3)
        assert other.trace == pytest.approx(whole.trace, rel=1e-5)


def test_label_forms_are_equal(model, data):
    x, y = data
    expected = quick(model, data).to_dict()
    assert quick(model, (x, y[:, None])).to_dict() == expected
    assert quick(model, (x, np.eye(5)[y])).to_dict() == expected
    smooth = 0.9 * np.eye(5)[y] + 0.02
    assert quick(model, (x, smooth)).to_dict() == expected


def test_linear_softmax_known_answers():
    """xi = (D D^T) * (X X^T + 1); at w = 0 on orthonormal inputs without bias (1 - 1/K) I."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 9)).astype(np.float32)
    y = rng.integers(4, size=7)
    linear = keras.Sequential([keras.Input((9,)), keras.layers.Dense(4)])
    report = characterize(linear, x, y, num_samples=7, metrics=["gamma_hat", "trace"], **WHOLE)
    z = linear(x).numpy().astype(np.float64)
    D = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) - np.eye(4)[y]
    xi = (D @ D.T) * (x.astype(np.float64) @ x.T + 1)
    # Logits carry a float32 rounding of 1e-7 to each of 7 rows; the condition is below 100.
    assert report.gamma_hat == pytest.approx(np.linalg.slogdet(xi)[1], abs=1e-4)
    assert report.trace == pytest.approx(np.trace(xi) / 7, rel=1e-6)

    zero = keras.Sequential([keras.Input((9,)), keras.layers.Dense(4, use_bias=False)])
    zero.set_weights([np.zeros((9, 4))])
    basis = np.eye(9, dtype=np.float32)[:7]
    report = characterize(zero, basis, y, num_samples=7, **WHOLE)
    assert report.gamma_hat == pytest.approx(7 * np.log(1 - 1 / 4), abs=1e-6)
    assert report.spectral_radius == pytest.approx(3 / 4, rel=1e-6)
    assert report.frobenius_norm == pytest.approx(9 / 16, rel=1e-6)
    assert report.am_gm_gap == pytest.approx(0, abs=1e-7)
    # Inputs c times as large make gradients at w = 0 c times as large: 2 N' ln c.
    scaled = characterize(zero, 8 * basis, y, num_samples=7, **WHOLE)
    assert scaled.gamma_hat - report.gamma_hat == pytest.approx(2 * 7 * np.log(8), abs=1e-6)


def test_the_same_function_with_other_weights():
    """ReLU: layer 1 times c, layer 2 by c. xi = xi_1 / c^2 + c^2 xi_2 (Dinh et al. 2017)."""
    keras.utils.set_random_seed(0)
    first = keras.layers.Dense(6, activation="relu")
    second = keras.layers.Dense(4, use_bias=False)
    model = keras.Sequential([keras.Input((5,)), first, second])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5)).astype(np.float32), rng.integers(4, size=7)
    settings = {"num_samples": 7, "metrics": ["gamma_hat"], **WHOLE}
    xi_of = {}
    for layer, other in ((first, second), (second, first)):
        other.trainable = False
        xi_of[layer] = gram_matrix(model, x, y)
        other.trainable = True
    outputs, before = model(x).numpy(), characterize(model, x, y, **settings).gamma_hat
    c = 8.0
    first.set_weights([c * weight for weight in first.get_weights()])
    second.set_weights([weight / c for weight in second.get_weights()])
    np.testing.assert_array_equal(model(x).numpy(), outputs)
    expected = np.linalg.slogdet(xi_of[first] / c**2 + c**2 * xi_of[second])[1]
    after = characterize(model, x, y, **settings).gamma_hat
    # c is a power of two, so nothing is rounded anew; float32 J, seven rows, condition 1e3.
    assert after == pytest.approx(expected, abs=1e-3)
    assert abs(after - before) > 1


def test_what_is_not_selected_is_not_computed(model, data, monkeypatch):
    """Each part that costs something fails when it is called."""
    from infomcr_tf.characterization import trials
    from infomcr_tf.characterization.robustness import InputJacobian
    from infomcr_tf.characterization.trial_spectrum import TrialSpectrum

    def refuse(*args, **kwargs):
        raise AssertionError("not selected")

    monkeypatch.setattr(trials.GradientEngine, "row_blocks", refuse)
    monkeypatch.setattr(InputJacobian, "squared_norms", refuse)
    monkeypatch.setattr(InputJacobian, "check", refuse)
    monkeypatch.setattr(TrialSpectrum, "scaled_eigenvalues", property(refuse))
    for name in ("spectral_radius", "frobenius_norm_sampled", "robustness"):
        with pytest.raises(AssertionError, match="not selected"):
            quick(model, data, metrics=name)
    report = quick(model, data, metrics=["trace", "gamma_hat"])
    assert report.spectral_radius is None
    assert report.robustness is None
    monkeypatch.undo()
    monkeypatch.setattr(trials.GradientEngine, "gram", refuse)
    with pytest.raises(AssertionError, match="not selected"):
        quick(model, data, metrics="trace")
    report = quick(model, data, metrics="robustness")
    assert report.gamma_hat is None
    assert report.robustness > 0


@pytest.mark.slow
def test_robustness_of_a_part_of_the_examples(model):
    x, y = images(250)
    whole = quick(model, (x, y), metrics=["robustness"])
    part = quick(model, (x, y), metrics=["robustness"], num_robustness_examples=130)
    assert part.robustness != whole.robustness
    assert (part.num_robustness_examples, whole.num_robustness_examples) == (130, 250)
    # The standard error of 130 of 250, four times.
    assert abs(part.robustness - whole.robustness) < 4 * whole.robustness_std / np.sqrt(130)


def test_at_a_loss_of_a_millionth_and_when_equalised():
    """Float32 rounds 1 - p_y away, and the gradients are of very different sizes."""
    model, x, y = saturated()
    report = characterize(
        model, x, y, num_samples=40, metrics=["gamma_hat", "trace", "rank"], **WHOLE
    )
    assert report.train_loss < 1e-6
    copy = reference.float64_copy(model)
    J = reference.per_example_gradients(copy, x.astype(np.float64), y)
    assert report.gamma_hat == pytest.approx(np.linalg.slogdet(J @ J.T)[1], rel=1e-3)
    assert report.trace == pytest.approx(np.sum(J**2) / 40, rel=1e-3)
    assert report.rank == 40

    equalised = characterize(
        model, x, y, num_samples=40, metrics=["gamma_hat"], equalize_loss=0.01, **WHOLE
    )
    J = reference.per_example_gradients(copy, x.astype(np.float64), y, equalize_loss=0.01)
    assert equalised.gamma_hat == pytest.approx(np.linalg.slogdet(J @ J.T)[1], rel=1e-3)
    assert equalised.num_excluded == 0


@pytest.mark.slow
def test_equalised_metrics_do_not_see_the_scale_of_the_logits(model):
    """Multiplying the last layer by c leaves the equalised head's cotangents divided by c."""
    x, _ = images(8)
    y = model.predict(x, verbose=0).argmax(axis=1)
    scaled = keras.models.clone_model(model)
    weights = model.get_weights()
    scaled.set_weights([*weights[:-2], 4 * weights[-2], 4 * weights[-1]])
    settings = {"num_samples": 8, "metrics": ["robustness", "trace"], **WHOLE}
    first = characterize(model, x, y, equalize_loss=0.05, **settings)
    second = characterize(scaled, x, y, equalize_loss=0.05, **settings)
    # Factors that are powers of two change no rounding; the bisection ends at float64 spacing.
    assert second.robustness == pytest.approx(first.robustness, rel=1e-9)
    assert characterize(scaled, x, y, **settings).robustness != pytest.approx(first.robustness)


def test_singular_samples_are_reported(model, data):
    x, y = (part.copy() for part in data)
    x[3], y[3] = x[8], y[8]
    with pytest.warns(UserWarning, match="xi is singular in 1 of 1 trials"):
        report = characterize(model, x, y, num_samples=12, metrics=["gamma_hat", "rank"], **WHOLE)
    assert report.gamma_hat == -np.inf
    assert np.isnan(report.gamma_hat_std)
    assert report.rank == 11


def test_wrongly_classified_examples_are_excluded_and_counted(model):
    x, _ = images(9)
    y = model.predict(x, verbose=0).argmax(axis=1)
    y[4] = (y[4] + 1) % 5
    settings = {"metrics": ["gamma_hat"], "equalize_loss": 0.1, **WHOLE}
    with pytest.warns(UserWarning, match="left out 1 wrongly classified examples of 9"):
        report = characterize(model, x, y, num_samples=9, **settings)
    right = characterize(model, np.delete(x, 4, 0), np.delete(y, 4), num_samples=8, **settings)
    assert report.num_excluded == 1
    # The same eight rows, computed in batches of another size.
    assert report.gamma_hat == pytest.approx(right.gamma_hat, abs=1e-3)
    # gamma multiplies that by W / 8.
    assert report.gamma == pytest.approx(right.gamma, abs=1e-3 * report.num_parameters / 8)
    all_wrong = (model.predict(x, verbose=0).argmax(axis=1) + 1) % 5
    settings["metrics"] = ["gamma_hat", "rank", "am_gm_gap", "robustness"]
    with pytest.warns(UserWarning, match="left out 9 wrongly classified examples of 9"):
        report = characterize(model, x, all_wrong, num_samples=9, **settings)
    for name in ("gamma_hat", "gamma", "rank", "am_gm_gap", "robustness"):
        assert np.isnan(getattr(report, name)), name
    assert report.num_robustness_examples == 0


@pytest.mark.parametrize("batch_norm", some(["inference", "batch"], ["batch"]))
def test_nothing_in_the_model_is_changed(model, data, batch_norm, registered):
    model.layers[3].trainable = False
    before = [w.copy() for w in model.get_weights()]
    quick(model, data, metrics="all", batch_norm=batch_norm)

    def fail(spectrum):
        raise RuntimeError("on the way")

    metric = registered(fail)
    with pytest.raises(RuntimeError, match="on the way"):
        quick(model, data, metrics=metric, batch_norm=batch_norm)
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, was)
    assert [layer.trainable for layer in model.layers] == [True] * 3 + [False] + [True] * 3
    model.layers[3].trainable = True


def test_frozen_layers_are_left_out_of_w(model, data):
    whole = quick(model, data)
    model.layers[0].trainable = False
    part = quick(model, data)
    model.layers[0].trainable = True
    assert whole.num_parameters - part.num_parameters == 3 * 3 * 3 * 6
    assert part.trace < whole.trace


def test_authors_protocol_is_the_sum_of_its_parts(model):
    """Disjoint batches in stored order, chunks of 10 with their own statistics, s = 0.04."""
    x, y = images(40)
    settings = {"num_trials": 2, "num_samples": 20, "metrics": ["gamma_hat"], "progress": False}
    report = characterize(model, x, y, protocol="authors", **settings)
    parts = [
        characterize(
            model,
            x[start : start + 20],
            y[start : start + 20],
            num_samples=20,
            metrics=["gamma_hat"],
            protocol="authors",
            **WHOLE,
        ).gamma_hat
        for start in (0, 20)
    ]
    np.testing.assert_allclose(report.trials["gamma_hat"], parts, rtol=1e-6)
    assert report.log_singular_value_sum == report.gamma_hat / 2
    assert report.settings["normalize_logits"] == 0.04
    assert report.settings["chunk_size"] == 10
    assert report.settings["batch_norm"] == "batch"
    with pytest.raises(ValueError, match=r"disjoint batches.*60 examples.*Received: 40"):
        characterize(model, x, y, protocol="authors", **{**settings, "num_trials": 3})
    with pytest.raises(ValueError, match="fixes `chunk_size` at 10"):
        characterize(model, x, y, protocol="authors", chunk_size=5, **settings)


def test_devices_give_the_same_numbers(model):
    x, y = images(130)
    settings = {"num_trials": 5, "metrics": "all"}
    one = quick(model, (x, y), **settings)
    names = [device.name for device in tf.config.list_logical_devices("CPU")]
    two = quick(model, (x, y), devices=names[:2], **settings)
    assert len(names) == 4
    assert two.to_dict() == one.to_dict()


def test_work_is_really_spread(model, data, monkeypatch):
    from infomcr_tf.characterization import trials

    used = []
    original = trials.GradientEngine.gram

    def record(self, *args, **kwargs):
        gram = original(self, *args, **kwargs)
        used.append(self._device)
        return gram

    monkeypatch.setattr(trials.GradientEngine, "gram", record)
    quick(model, data, devices=["CPU:1", "/cpu:2"], num_trials=6)
    assert len(used) == 6
    assert set(used) == {tf.config.list_logical_devices("CPU")[i].name for i in (1, 2)}


def test_errors_of_other_devices_arrive(model, data, registered):
    def fail(spectrum):
        raise RuntimeError("on the way")

    metric = registered(fail)
    with pytest.raises(RuntimeError, match="on the way"):
        quick(model, data, metrics=metric, devices=["CPU:0", "CPU:1"])


def test_tensor_float_32_is_off_inside_and_restored(model, data, registered):
    enabled = tf.config.experimental.tensor_float_32_execution_enabled
    seen = []

    def look(spectrum):
        seen.append(enabled())
        return spectrum.scale

    metric = registered(look)
    assert enabled()
    quick(model, data, metrics=metric)
    assert seen == [False] * 3
    assert enabled()


BAD = [
    ({"metrics": ["gamma_hut"]}, "Did you mean 'gamma_hat'"),
    ({"metrics": "robustnes"}, "Did you mean 'robustness'"),
    ({"metrics": []}, "`metrics`"),
    ({"num_trials": 0}, "`num_trials` must be an integer >= 1"),
    ({"num_samples": -1}, "`num_samples` must be an integer >= 1"),
    ({"num_samples": 2.5}, "`num_samples` must be an integer >= 1"),
    ({"num_samples": 13}, r"without replacement\. Received: num_samples=13, 12 examples"),
    ({"num_robustness_examples": 13}, "`num_robustness_examples` must be at most"),
    ({"batch_norm": "inferense"}, "`batch_norm`"),
    ({"method": "atuo"}, "`method`"),
    ({"chunk_size": 0}, "`chunk_size`"),
    ({"normalize_logits": -1.0}, "`normalize_logits`"),
    ({"equalize_loss": 0.7}, "`equalize_loss`"),
    ({"protocol": "author"}, "Did you mean 'authors'"),
    ({"devices": ["GPU:17"]}, "`devices` must be names of devices"),
    ({"devices": []}, "`devices`"),
    ({"seed": -1}, "`seed`"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=[str(bad[0]) for bad in BAD])
def test_bad_arguments_are_refused_before_any_work(model, data, settings, message, tmp_path):
    path = tmp_path / "checkpoint.json"
    with pytest.raises(ValueError, match=message) as error:
        quick(model, data, checkpoint=path, **settings)
    assert "\n" not in str(error.value)
    assert not path.exists()


def test_bad_data_and_models_are_refused(model, data):
    x, y = data
    with pytest.raises(TypeError, match=r"keras\.Model"):
        quick("model.keras", data)
    with pytest.raises(ValueError, match="at least one example"):
        quick(model, (x[:0], y[:0]))
    with pytest.raises(ValueError, match="classes of the model"):
        quick(model, (x, y + 5))
    with pytest.raises(ValueError, match="finite"):
        quick(model, (np.where(x > 2, np.nan, x), y))
    with pytest.raises(ValueError, match="shape"):
        quick(model, (x[:, :5], y))


def test_all_metrics_are_in_the_report(model, data):
    report = quick(model, data, metrics="all")
    assert isinstance(report, MinimumReport)
    # Not the Hessian's, which take far longer, nor the estimate of what is known exactly.
    every = [name for name in METRICS if not name.startswith("hessian_")]
    every.remove("frobenius_norm_sampled")
    assert report.settings["metrics"] == every
    for name in every:
        assert np.isfinite(getattr(report, name)), name


def test_further_measurements_do_not_trace_again(data, monkeypatch):
    model, traced = conv_net(seed=1), []
    original = Network.logits

    def counted(network, x, *args, **kwargs):
        if not tf.executing_eagerly():
            traced.append(network)
        return original(network, x, *args, **kwargs)

    monkeypatch.setattr(Network, "logits", counted)
    first = quick(model, data, metrics=["gamma_hat", "robustness"])
    assert traced
    del traced[:]
    second = quick(model, data, metrics=["gamma_hat", "robustness"])
    assert not traced
    np.testing.assert_array_equal(first.trials["gamma_hat"], second.trials["gamma_hat"])
    assert first.robustness == second.robustness


def test_all_examples_are_one_trial(model, data, tmp_path, monkeypatch):
    x, y = data
    original, states = GradientEngine.gram, []

    def recorded(engine, *examples, state=None, **options):
        states.append(state)
        return original(engine, *examples, state=state, **options)

    monkeypatch.setattr(GradientEngine, "gram", recorded)
    monkeypatch.setattr("infomcr_tf.characterization.trials._MANY", 2)
    arguments = {"num_samples": "all", "progress": False, "metrics": ["gamma_hat", "rank"]}
    report = characterize(model, x, y, checkpoint=tmp_path / "checkpoint", **arguments)
    assert [state.name for state in states] == ["checkpoint.trial0.npz"]
    assert report.num_trials == 1
    assert report.num_samples == len(y)
    expected = GradientEngine(model).gram(x, y)
    np.testing.assert_allclose(report.gamma_hat, expected.logdet, rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir() if "trial0" in path.name] == []
    with pytest.raises(ValueError, match='must be an integer with `protocol="authors"`'):
        characterize(model, x, y, protocol="authors", **arguments)
