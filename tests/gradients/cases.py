"""Networks of every kind of layer that per-example gradients have a rule for, and of none."""

import contextlib

import keras
import numpy as np
from keras import layers

NUM_CLASSES = 3


@contextlib.contextmanager
def floatx(dtype):
    """Models built within it compute in `dtype`."""
    before, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(policy)


def randomised(model, seed=0):
    """Gives every weight a value that no initialiser would: biases, scales, moving averages."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "float" in variable.dtype:
            values = rng.uniform(0.5, 1.5, size=variable.shape)
            if variable.name not in ("gamma", "moving_variance"):
                values = rng.normal(size=variable.shape) / np.sqrt(2 + np.prod(variable.shape[:-1]))
            variable.assign(values)
    return model


def _images(*body, shape=(9, 8, 4)):
    head = [layers.GlobalAveragePooling2D(), layers.Dense(NUM_CLASSES)]
    return keras.Sequential([keras.Input(shape), *body, *head])


def _series(*body):
    head = [layers.Flatten(), layers.Dense(NUM_CLASSES)]
    return keras.Sequential([keras.Input((10, 4)), *body, *head])


def _attention():
    tokens = keras.Input((7,), dtype="int32")
    h = layers.Embedding(11, 4)(tokens)
    h = layers.MultiHeadAttention(2, 3)(h, h)
    h = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(h))
    return keras.Model(tokens, layers.Dense(NUM_CLASSES)(h))


def _shared():
    inputs = keras.Input((9, 8, 4))
    convolution = layers.Conv2D(4, 3, padding="same", activation="tanh")
    norm = layers.BatchNormalization()
    h = norm(convolution(norm(convolution(inputs))))
    dense = layers.Dense(4, activation="tanh")
    h = layers.Dropout(0.5)(dense(dense(layers.GlobalAveragePooling2D()(h))))
    return keras.Model(inputs, layers.Dense(NUM_CLASSES)(h))


def _two_inputs(as_dict):
    a, b = keras.Input((5,), name="b"), keras.Input((9, 8, 4), name="a")
    h = layers.Concatenate()([layers.Dense(4)(a), layers.Flatten()(layers.Conv2D(2, 3)(b))])
    logits = layers.Dense(NUM_CLASSES)(h)
    return keras.Model({"b": a, "a": b} if as_dict else [a, b], logits)


def _frozen():
    model = _images(
        layers.Conv2D(4, 3, activation="tanh"), layers.BatchNormalization(), layers.Conv2D(5, 3)
    )
    model.layers[0].trainable = False
    model.layers[1].trainable = False
    return model


def _softmax_at_the_end(as_layer):
    inputs = keras.Input((9, 8, 4))
    h = layers.Flatten()(layers.Conv2D(2, 3, activation="relu")(inputs))
    if as_layer:
        return keras.Model(inputs, layers.Softmax()(layers.Dense(NUM_CLASSES)(h)))
    return keras.Model(inputs, layers.Dense(NUM_CLASSES, activation="softmax")(h))


class Tied(layers.Layer):
    """A layer of its own, which also uses the kernel of a Dense layer for something else."""

    def build(self, shape):
        self.dense = layers.Dense(4)
        self.dense.build((None, 4))
        self.w = self.add_weight(shape=(shape[-1], 4), name="w")

    def call(self, x):
        return self.dense(x @ self.w) + keras.ops.tanh(x @ self.w) @ self.dense.kernel


class Cell(layers.Layer):
    """A recurrent cell with a Dense layer inside, which a graph calls in a loop."""

    state_size = 3

    def build(self, shape):
        self.dense = layers.Dense(3)
        self.dense.build((None, shape[-1] + 3))

    def call(self, x, states):
        h = keras.ops.tanh(self.dense(keras.ops.concatenate([x, states[0]], axis=-1)))
        return h, [h]


class Subclassed(keras.Model):
    """A model that declares neither inputs nor outputs."""

    def __init__(self):
        super().__init__()
        self.first = layers.Conv2D(4, 3, activation="tanh")
        self.last = layers.Dense(NUM_CLASSES)

    def call(self, x):
        return self.last(keras.ops.mean(self.first(x), axis=(1, 2)))


# Name -> how to make the model. All variables of the first group have a rule.
WITH_RULES = {
    "dense": lambda: _series(layers.Dense(5, activation="tanh")),
    "convolution": lambda: _images(
        layers.Conv2D(6, 3, strides=2, padding="same", activation="tanh"),
        layers.Conv2D(5, (2, 3), use_bias=False),
    ),
    "dilated convolution": lambda: _images(
        layers.Conv2D(6, 3, dilation_rate=(2, 1), padding="same", activation="tanh"),
        layers.Conv2D(4, 3, dilation_rate=2),
    ),
    "grouped convolution": lambda: _images(layers.Conv2D(6, 3, groups=2, activation="tanh")),
    "convolution of large maps": lambda: _images(
        layers.Conv2D(5, 3, padding="same", activation="tanh"),
        layers.Conv2D(6, (3, 2), strides=(1, 2)),
        shape=(20, 40, 4),
    ),
    "convolution of small maps": lambda: _images(
        layers.Conv2D(40, 4, strides=3, activation="tanh"), layers.Conv2D(40, (2, 1))
    ),
    "depthwise": lambda: _images(
        layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2, padding="same", activation="tanh"),
        layers.DepthwiseConv2D((2, 1), use_bias=False),
    ),
    "causal": lambda: _series(
        layers.Conv1D(5, 3, padding="causal", dilation_rate=2, activation="tanh"),
        layers.DepthwiseConv1D(3),
        layers.Conv1D(4, 3, padding="same", strides=2),
    ),
    "normalisations": lambda: _series(
        layers.Conv1D(6, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.Activation("tanh"),
        layers.LayerNormalization(),
        layers.Dense(6),
        layers.GroupNormalization(2),
        layers.BatchNormalization(scale=False),
        layers.BatchNormalization(center=False),
    ),
    "shared layers": _shared,
    "a list of inputs": lambda: _two_inputs(as_dict=False),
    "a dict of inputs": lambda: _two_inputs(as_dict=True),
    "frozen layers": _frozen,
    "softmax activation": lambda: _softmax_at_the_end(as_layer=False),
    "softmax layer": lambda: _softmax_at_the_end(as_layer=True),
    "subclassed": Subclassed,
}
WITHOUT_RULES = {
    "custom layer": lambda: keras.Sequential(
        [keras.Input((5,)), Tied(), layers.Activation("tanh"), layers.Dense(NUM_CLASSES)]
    ),
    "attention": _attention,
    "separable convolution": lambda: _images(layers.SeparableConv2D(5, 3, activation="tanh")),
    "recurrent cell with a Dense layer": lambda: _series(layers.RNN(Cell())),
    "LSTM": lambda: _series(layers.LSTM(3, return_sequences=True)),
}
CASES = {**WITH_RULES, **WITHOUT_RULES}


def make(name, dtype="float32", num_examples=5, seed=0):
    """A model, inputs and labels."""
    with floatx(dtype):
        model = CASES[name]()
        rng = np.random.default_rng(seed)
        if name == "subclassed":
            x = rng.normal(size=(num_examples, 9, 8, 4)).astype(dtype)
            model(x)
        elif name == "attention":
            x = rng.integers(11, size=(num_examples, 7)).astype("int32")
        else:
            x = {
                t.name: rng.normal(size=(num_examples, *t.shape[1:])).astype(dtype)
                for t in model.inputs
            }
            if name != "a dict of inputs":
                x = list(x.values())
            if len(x) == 1:
                x = x[0]
        return randomised(model, seed), x, rng.integers(NUM_CLASSES, size=num_examples)
