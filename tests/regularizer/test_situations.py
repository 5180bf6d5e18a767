"""What users of Keras train, one row a situation, by every data term and estimator.

Each row makes a step, on a batch that the number of sub-batches does not divide and whose size is
not known while tracing. What the weights become is compared, in float64, with Algorithm 1 by hand
(reference.py); with `beta=0`, with plain Keras. A new situation is a new row.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from keras import layers, ops
from parameters import some

from infomcr_tf.regularizer import FisherRegularizedModel

N, M, ALPHA, BETA = 10, 4, 0.01, 20.0
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 6))
LABELS = np.arange(N) % 3
TARGETS = RNG.normal(size=(N, 2))
WEIGHTS = RNG.exponential(size=N)
TOKENS = RNG.integers(1, 9, (N, 5)) * (np.arange(5) < RNG.integers(1, 6, (N, 1)))
TOKEN_LABELS = RNG.integers(0, 3, (N, 5))
SEQUENCES = tf.RaggedTensor.from_tensor(TOKENS.astype("int32"), padding=0)
WORDS = np.array(["cat", "dog", "cow", "ant"])[TOKENS % 4]
IMAGES, PIXELS = RNG.integers(0, 255, (N, 4, 4, 2)), RNG.integers(0, 3, (N, 4, 4))


def cross_entropy(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def mlp(*after, outputs=3, **options):
    hidden = layers.Dense(5, activation="tanh", **options)
    return keras.Sequential([keras.Input((6,)), hidden, *after, layers.Dense(outputs)])


def softmax():
    return keras.Sequential([mlp(), layers.Softmax()])


def two_outputs(inputs=None):
    i = keras.Input((6,)) if inputs is None else inputs
    h = layers.Dense(5, activation="tanh")(layers.Concatenate()(list(i.values())) if inputs else i)
    return keras.Model(i, {"a": layers.Dense(3, name="a")(h), "b": layers.Dense(2, name="b")(h)})


def masked():
    i = keras.Input((5,), dtype="int32")
    h = layers.Embedding(9, 3, mask_zero=True)(i)
    return keras.Model(i, layers.Dense(3)(layers.Dense(4, activation="tanh")(h)))


def scalars():
    return keras.Sequential([mlp(outputs=1), layers.Reshape(())])


def frozen():
    model = mlp(layers.BatchNormalization())
    model.layers[1].trainable = False
    return model


def sparse():
    return keras.Sequential([keras.Input((6,), sparse=True), layers.Dense(3, activation="tanh")])


def ragged():
    i = keras.Input((None,), dtype="int32", ragged=True)
    h = layers.GlobalAveragePooling1D()(layers.Embedding(9, 3)(i))
    return keras.Model(i, layers.Dense(3)(layers.Dense(4, activation="tanh")(h)))


def words():
    lookup = layers.StringLookup(vocabulary=["cat", "dog", "cow"], output_mode="multi_hot")
    return keras.Sequential([keras.Input((5,), dtype="string"), lookup, layers.Dense(3)])


def segmentation():
    i = keras.Input((4, 4, 2), dtype="uint8")
    h = down = layers.Conv2D(3, 3, padding="same", activation="tanh")(layers.Rescaling(0.01)(i))
    h = layers.UpSampling2D()(layers.MaxPooling2D()(h))
    return keras.Model(i, layers.Conv2D(3, 1)(layers.Concatenate()([h, down])))


def language_model():
    i = keras.Input((5,), dtype="int32")
    h = layers.Embedding(9, 4)(i)
    h = layers.Add()([h, layers.MultiHeadAttention(2, 3)(h, h, use_causal_mask=True)])
    return keras.Model(i, layers.Dense(9)(layers.LayerNormalization(epsilon=1.0)(h)))


def siamese():
    tower = keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="tanh")])
    a, b = keras.Input((3,)), keras.Input((3,))
    return keras.Model([a, b], layers.Dense(1)(layers.Subtract()([tower(a), tower(b)])))


class DictOutputs(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(5, activation="tanh")
        self.a, self.b = layers.Dense(3), layers.Dense(2)

    def call(self, x):
        h = self.hidden(x)
        return {"a": self.a(h), "b": self.b(h)}


class Measures(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense, self.size = layers.Dense(3), keras.metrics.Mean(name="size")

    def call(self, x):
        logits = self.dense(x)
        self.size.update_state(ops.mean(ops.abs(logits), axis=-1))
        return logits


class ReadsShapes(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.out, self.spare = (
            layers.Dense(6, activation="tanh"),
            layers.Dense(3),
            layers.Dense(2),
        )
        self.spare.build((None, 6))

    def call(self, x):
        h = ops.reshape(self.hidden(x), (-1, x.shape[1] // 2, 2))
        return self.out(ops.reshape(h, (-1, h.shape[1] * h.shape[2])))


class Counts(layers.Layer):
    """Divides by an average that it keeps, as BatchNorm does, but uses it in training."""

    def build(self, shape):
        self.mean = self.add_weight(shape=(), initializer="ones", trainable=False, name="mean")
        self.steps = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="steps", dtype="int32"
        )

    def call(self, x, training=False):
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(ops.square(x)))
            self.steps.assign(self.steps + 1)
        return x / self.mean


class Contrastive(keras.losses.Loss):
    def call(self, y_true, y_pred):
        similarity = ops.matmul(y_pred, ops.transpose(y_pred))
        return ops.logsumexp(similarity, axis=-1) - ops.diagonal(similarity)


def root_mean_square(y_true, y_pred):
    return ops.sqrt(ops.mean(ops.square(y_pred - y_true)))


@dataclasses.dataclass
class Situation:
    """`auto` is what "auto" must choose; `refused` has messages by term or estimator."""

    model: Callable[[], keras.Model]
    loss: Any
    y: Any
    auto: str = "batch"
    x: Any = dataclasses.field(default_factory=lambda: X)
    sample_weight: Any = None
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    compile: dict[str, Any] = dataclasses.field(default_factory=dict)
    feed: Callable[[Any], Any] = lambda x: x


SUB = "sub_batches"
SITUATIONS = {
    "labels": Situation(mlp, cross_entropy, LABELS, SUB),
    "labels (N, 1)": Situation(mlp, cross_entropy, LABELS[:, None], SUB),
    "weights": Situation(mlp, cross_entropy, LABELS, SUB, sample_weight=WEIGHTS),
    "weights (N, 1)": Situation(mlp, cross_entropy, LABELS, SUB, sample_weight=WEIGHTS[:, None]),
    "outputs (N,), targets (N, 1)": Situation(scalars, lambda: "mse", TARGETS[:, :1]),
    "outputs (N,), weights": Situation(
        scalars, lambda: "mse", TARGETS[:, 0], sample_weight=WEIGHTS
    ),
    "fewer examples than M": Situation(
        mlp, cross_entropy, np.r_[LABELS, LABELS[:3]], SUB, x=np.r_[X, -X[:3]]
    ),
    "two inputs": Situation(
        lambda: two_outputs({"u": keras.Input((6,)), "v": keras.Input((2,))}),
        lambda: {"a": cross_entropy(), "b": "mse"},
        {"a": LABELS, "b": TARGETS},
        SUB,
        x={"u": X, "v": TARGETS},
        compile={"loss_weights": {"a": 1.0, "b": 0.25}},
        sample_weight={"a": WEIGHTS, "b": WEIGHTS[::-1].copy()},
    ),
    "loss of one output": Situation(
        two_outputs, lambda: {"a": cross_entropy(), "b": None}, {"a": LABELS, "b": TARGETS}, SUB
    ),
    "subclass, spare layer": Situation(ReadsShapes, cross_entropy, LABELS),
    "L2 of one kernel": Situation(
        lambda: mlp(kernel_regularizer=keras.regularizers.L2(0.1)), cross_entropy, LABELS, SUB
    ),
    "frozen BatchNorm": Situation(frozen, cross_entropy, LABELS, SUB),
    "BatchNorm": Situation(
        lambda: mlp(layers.BatchNormalization(epsilon=1.0)), cross_entropy, LABELS
    ),
    "a metric of the model's own": Situation(Measures, cross_entropy, LABELS),
    "spectral norm": Situation(
        lambda: mlp(layers.SpectralNormalization(layers.Dense(4))),
        cross_entropy,
        LABELS,
        refused={"hessian_vector": "use in training what they assign there"},
    ),
    "counter": Situation(
        lambda: mlp(Counts()),
        cross_entropy,
        LABELS,
        refused={"hessian_vector": "use in training what they assign there.*counts.*mean"},
    ),
    "activity": Situation(
        lambda: mlp(activity_regularizer=keras.regularizers.L2(0.1)),
        cross_entropy,
        LABELS,
        refused={SUB: "activity regularizers"},
    ),
    "mask": Situation(masked, cross_entropy, TOKEN_LABELS, x=TOKENS),
    "mask, weights": Situation(
        masked,
        cross_entropy,
        TOKEN_LABELS,
        x=TOKENS,
        sample_weight=RNG.exponential(size=(N, 5)),
    ),
    "ignore_class": Situation(mlp, lambda: cross_entropy(ignore_class=0), LABELS),
    "dice": Situation(softmax, keras.losses.Dice, np.eye(3)[LABELS]),
    "circle": Situation(mlp, keras.losses.Circle, LABELS),
    "contrastive": Situation(mlp, Contrastive, LABELS),
    "CTC": Situation(
        lambda: keras.Sequential([keras.Input((6,)), layers.Reshape((6, 1)), layers.Dense(4)]),
        keras.losses.CTC,
        1 + np.c_[LABELS, LABELS],
        refused={"hessian_vector": "cannot differentiate twice"},
    ),
    "scalar function": Situation(lambda: mlp(outputs=2), lambda: root_mean_square, TARGETS),
    "weighted mean": Situation(
        mlp,
        lambda: cross_entropy(reduction="mean_with_sample_weight"),
        LABELS,
        sample_weight=WEIGHTS,
    ),
    "sum": Situation(
        mlp, lambda: cross_entropy(reduction="sum"), LABELS, refused={SUB: "averaged"}
    ),
    "no reduction": Situation(
        mlp, lambda: cross_entropy(reduction=None), LABELS, refused={SUB: "reduction=None"}
    ),
    "sparse": Situation(sparse, cross_entropy, LABELS, feed=tf.sparse.from_dense),
    "ragged": Situation(ragged, cross_entropy, LABELS, x=SEQUENCES),
    "words": Situation(words, cross_entropy, LABELS, x=WORDS),
    "one logit, labels (N,)": Situation(
        lambda: mlp(outputs=1),
        lambda: keras.losses.BinaryCrossentropy(from_logits=True),
        LABELS > 0,
        SUB,
    ),
    "dropout": Situation(lambda: mlp(layers.Dropout(0.5, seed=1)), cross_entropy, LABELS, SUB),
    "segmentation": Situation(segmentation, cross_entropy, PIXELS, SUB, x=IMAGES),
    "segmentation, weights": Situation(
        segmentation, cross_entropy, PIXELS, x=IMAGES, sample_weight=RNG.exponential(size=(N, 4, 4))
    ),
    "language model": Situation(language_model, cross_entropy, TOKENS[:, ::-1], SUB, x=TOKENS),
    "siamese": Situation(siamese, lambda: "mse", TARGETS[:, :1], SUB, x=(X[:, :3], X[:, 3:])),
    "subclass, dict of outputs": Situation(
        DictOutputs,
        lambda: {"a": cross_entropy(), "b": "mse"},
        {"a": LABELS, "b": TARGETS},
    ),
}


@pytest.fixture
def situation(request, float64):
    """The situation whose name the test is given."""
    return SITUATIONS[request.param]


def make(situation, **options):
    keras.utils.set_random_seed(1)
    model = situation.model()
    trained = FisherRegularizedModel(model, num_sub_batches=M, **options) if options else model
    loss = situation.loss()
    trained.compile(keras.optimizers.SGD(1.0), loss, **situation.compile)
    return model, trained


def step(situation, trained):
    """An epoch of `fit` on a data set that does not say how large its batches are."""
    parts = [situation.feed(situation.x), situation.y]
    parts += [] if situation.sample_weight is None else [situation.sample_weight]
    data = tf.data.Dataset.from_tensor_slices(tuple(parts)).batch(N)
    return trained.fit(data, verbose=0).history


def by_hand(situation, data_term, estimator):
    """The model after the same by Algorithm 1 in loops."""
    model, _ = make(situation)
    whole = (situation.x, situation.y, situation.sample_weight)
    model(situation.x)
    gradient = {"batch": reference.regularized_gradient, SUB: reference.ghost_batch_gradient}
    for start in range(0, keras.tree.flatten(whole)[0].shape[0], N):
        x, y, weight = reference.part(whole, slice(start, start + N))
        added = reference.added_gradient(model, x)
        found = gradient[data_term](
            model,
            model._compile_loss,
            x,
            y,
            ALPHA,
            BETA,
            M,
            sample_weight=weight,
            estimator=estimator,
        )
        for variable, g, extra in zip(model.trainable_variables, found, added, strict=True):
            variable.assign(variable - g - extra)
    return model


def check_same(model, expected, tolerance):
    for a, b in zip(model.weights, expected.weights, strict=True):
        if a.name != "seed_generator_state":
            np.testing.assert_allclose(
                a.numpy(), b.numpy(), rtol=tolerance, atol=tolerance, err_msg=a.path
            )


def algorithm_1_cases():
    """By default each situation with "auto", and each that a data term is refused for."""
    for name, situation in SITUATIONS.items():
        for data_term in ("batch", SUB):
            for estimator in ("finite_difference", "hessian_vector"):
                asked = data_term == situation.auto or data_term in situation.refused
                default = asked and estimator == "finite_difference"
                yield pytest.param(
                    name, data_term, estimator, marks=() if default else pytest.mark.slow
                )


@pytest.mark.parametrize(
    ("situation", "data_term", "estimator"), algorithm_1_cases(), indirect=["situation"]
)
def test_algorithm_1(situation, data_term, estimator):
    # "auto" is one of the two, and takes that one's place.
    asked = "auto" if data_term == situation.auto else data_term
    options = {"alpha": ALPHA, "beta": BETA, "data_term": asked, "estimator": estimator}
    refused = situation.refused.get(data_term, situation.refused.get(estimator))
    if refused:
        with pytest.raises(ValueError, match=refused) as caught:
            step(situation, make(situation, **options)[1])
        assert "\n" not in str(caught.value)
        return
    model, trained = make(situation, **options)
    logs = step(situation, trained)
    assert np.isfinite(logs["fisher_penalty"][0])
    # float64 against float64; the reference's Hessian-vector product is good to 1e-9
    check_same(model, by_hand(situation, data_term, estimator), 1e-7)


@pytest.mark.parametrize(
    "situation",
    some(SITUATIONS, ["BatchNorm", "counter", "activity", "subclass, dict of outputs"]),
    indirect=True,
)
def test_beta_0_is_plain_keras(situation):
    model, trained = make(situation, beta=0.0)
    plain, trained_alone = make(situation)
    logs, expected = step(situation, trained), step(situation, trained_alone)
    assert {name: logs[name] for name in expected} == expected
    check_same(model, plain, 0)


OPTIMIZERS = {
    "clipping": lambda: keras.optimizers.SGD(0.5, momentum=0.9, global_clipnorm=0.1),
    "average of weights": lambda: keras.optimizers.Adam(
        0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2
    ),
    "scaled loss": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.5), initial_scale=8.0, dynamic_growth_steps=1
    ),
    "accumulation": lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=2),
    "decay": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.3),
}


@pytest.mark.parametrize("data_term", some(["batch", SUB], [SUB]))
@pytest.mark.parametrize("optimizer", some(OPTIMIZERS, ["average of weights"]))
def test_optimizers(float64, optimizer, data_term):
    """They see the gradient of Eq. 7 as they would see any other, in each of three steps."""
    optimizer = OPTIMIZERS[optimizer]
    keras.utils.set_random_seed(1)
    model = mlp()
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    trained = FisherRegularizedModel(
        model, alpha=ALPHA, beta=BETA, num_sub_batches=M, data_term=data_term
    )
    trained.compile(optimizer(), cross_entropy())
    trained.fit(X, LABELS, batch_size=4, shuffle=False, verbose=0)
    gradient = {"batch": reference.regularized_gradient, SUB: reference.ghost_batch_gradient}
    update, loss = optimizer(), cross_entropy()
    update.build(copy.trainable_variables)
    for start in range(0, N, 4):
        x, y = reference.part((X, LABELS), slice(start, start + 4))
        found = gradient[data_term](copy, loss, x, y, ALPHA, BETA, M)
        update.apply([update.scale_loss(tf.constant(g)) for g in found], copy.trainable_variables)
    update.finalize_variable_values(copy.trainable_variables)
    check_same(model, copy, 1e-7)
