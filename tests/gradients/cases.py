"""Networks of every kind of layer that per-example gradients have a rule for, and of none."""

import contextlib
import inspect

import keras
import numpy as np
from keras import layers

NUM_CLASSES = 3
HAS_RENORM = (
    "renorm" in inspect.signature(layers.BatchNormalization).parameters
)  # newer than Keras 3.12


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


def _transformer():
    """Like BERT: masked tokens; grouped-query attention in the second block."""
    tokens = keras.Input((7,), dtype="int32")
    mask = keras.ops.not_equal(tokens, 0)[:, None, :]
    h = layers.Embedding(600, 8)(tokens)
    for attention in (layers.MultiHeadAttention(2, 4), layers.GroupQueryAttention(3, 4, 2)):
        h = layers.LayerNormalization()(h + attention(h, h, attention_mask=mask))
        h = layers.RMSNormalization()(h + layers.Dense(8)(layers.Dense(16, activation="gelu")(h)))
    return keras.Model(tokens, layers.Dense(NUM_CLASSES)(h[:, 0]))


def _lora():
    tokens = keras.Input((7,), dtype="int32")
    adapted = [
        layers.Embedding(11, 6),
        layers.Dense(5, activation="tanh"),
        layers.EinsumDense("abc,cde->abde", output_shape=(7, 2, 3)),
    ]
    h = tokens
    for layer in adapted:
        h = layer(h)
    model = keras.Model(tokens, layers.Dense(NUM_CLASSES)(layers.Flatten()(h)))
    for layer in adapted:
        layer.enable_lora(2)
    return model


def _masked_recurrent():
    tokens = keras.Input((7,), dtype="int32")
    h = layers.Embedding(11, 4, mask_zero=True)(tokens)
    h = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(h)
    h = layers.Bidirectional(layers.GRU(2), merge_mode="sum")(h)
    return keras.Model(tokens, layers.Dense(NUM_CLASSES)(h))


def _stacked_cells():
    first = layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)], return_sequences=True)
    return _series(first, layers.RNN([layers.SimpleRNNCell(3), layers.LSTMCell(2)]))


def _transposed(number):
    convolution = getattr(layers, f"Conv{number}DTranspose")
    body = [
        convolution(5, 3, strides=2, padding="same", activation="tanh"),
        convolution(3, 2, strides=2, use_bias=False),
        convolution(4, 3, padding="same"),
    ]
    shape = {1: (10, 4), 2: (5, 4, 3), 3: (3, 2, 4, 2)}[number]
    head = [layers.Flatten(), layers.Dense(NUM_CLASSES)]
    return keras.Sequential([keras.Input(shape), *body, *head])


class Broadcast(layers.Layer):
    """Variables broadcast over the batch: LayerScale, a class token, positions, a temperature."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")
        self.positions = self.add_weight(shape=shape[1:], name="positions")
        self.temperature = self.add_weight(shape=(), name="temperature")

    def call(self, x):
        ops = keras.ops
        tokens = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        tiled = ops.tile(self.token**2, (ops.shape(x)[0], 1, 1))
        body = x * ops.exp(self.scale) + self.positions / (1 + self.temperature**2)
        return ops.concatenate([tokens, body, ops.zeros_like(x[:, :1]) + tiled], axis=1)

    def compute_output_shape(self, shape):  # Keras 3.12 cannot tell it from `call`
        return (shape[0], shape[1] + 2, shape[2])


class Differences(layers.Layer):
    """Variables on either side of sums, differences and products; prototypes."""

    def build(self, shape):
        self.a = self.add_weight(shape=(shape[-1],), name="a")
        self.b = self.add_weight(shape=(), name="b")
        self.prototypes = self.add_weight(shape=(3, shape[-1]), name="prototypes")

    def call(self, x):
        h = (self.b - x) * (self.a * x) - self.a + keras.ops.where(x > 0, self.a - x, x * self.b)
        return keras.ops.sum((h[:, :, None] - self.prototypes) ** 2, axis=-1)


class Looped(layers.Layer):
    """A Dense layer inside of a loop of TensorFlow, which no rule can see into."""

    def build(self, shape):
        self.dense = layers.Dense(shape[-1])
        self.dense.build(shape)

    def call(self, x):
        return keras.ops.fori_loop(0, 2, lambda _, h: keras.ops.tanh(self.dense(h)), x)


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
    "custom layer": lambda: keras.Sequential(
        [keras.Input((5,)), Tied(), layers.Activation("tanh"), layers.Dense(NUM_CLASSES)]
    ),
    "attention": _attention,
    "transformer": _transformer,
    "LoRA": _lora,
    "broadcast variables": lambda: _series(Broadcast(), layers.Dense(4)),
    "differences": lambda: _series(Differences()),
    "EinsumDense": lambda: _series(
        layers.EinsumDense("abc,cd->abd", output_shape=(10, 5), bias_axes="d", activation="tanh"),
        layers.EinsumDense("abc,bcd->abd", output_shape=(10, 4), bias_axes="bd"),
        layers.EinsumDense("abc,bd->adc", output_shape=(6, 4)),
        layers.EinsumDense("abc,dc->adb", output_shape=(3, 6)),
    ),
    "separable convolution": lambda: _images(
        layers.SeparableConv2D(5, 3, strides=2, depth_multiplier=2, activation="tanh"),
        layers.DepthwiseConv2D(2, dilation_rate=2, padding="same"),
    ),
    "separable convolution of series": lambda: _series(
        layers.SeparableConv1D(5, 3, padding="same", activation="tanh"),
        layers.SeparableConv1D(4, 3, dilation_rate=2),
    ),
    "transposed convolution of series": lambda: _transposed(1),
    "transposed convolution": lambda: _transposed(2),
    "transposed convolution of volumes": lambda: _transposed(3),
    "PReLU": lambda: _images(
        layers.Conv2D(5, 3), layers.PReLU(), layers.Conv2D(4, 3), layers.PReLU(shared_axes=[1, 2])
    ),
    "other normalisations": lambda: _images(
        layers.Conv2D(6, 3),
        layers.RMSNormalization(),
        layers.UnitNormalization(),
        layers.LayerNormalization(axis=[1, 2]),
        layers.BatchNormalization(axis=1),
        layers.LayerNormalization(center=False),
        *([layers.BatchNormalization(renorm=True)] if HAS_RENORM else []),
    ),
    "recurrent": lambda: _series(
        layers.LSTM(3, return_sequences=True, go_backwards=True),
        layers.GRU(4, return_sequences=True, reset_after=False),
        layers.GRU(3, return_sequences=True, go_backwards=True),
        layers.SimpleRNN(4),
    ),
    "masked recurrent": _masked_recurrent,
    "stacked cells": _stacked_cells,
    "recurrent cell with a Dense layer": lambda: _series(layers.RNN(Cell())),
    "recurrent convolution": lambda: keras.Sequential(
        [
            keras.Input((4, 6, 5, 2)),
            layers.ConvLSTM2D(3, 3, return_sequences=True),
            layers.ConvLSTM2D(2, 2, padding="same", go_backwards=True),
            layers.Flatten(),
            layers.Dense(NUM_CLASSES),
            layers.Rescaling(4.0, offset=-1.0),  # all between 0 and 1 they would be no logits
        ]
    ),
    "recurrent convolution in one dimension": lambda: keras.Sequential(
        [
            keras.Input((4, 6, 2)),
            layers.ConvLSTM1D(3, 3, return_sequences=True),
            layers.ConvLSTM1D(2, 2, strides=2, padding="same", go_backwards=True),
            layers.Flatten(),
            layers.Dense(NUM_CLASSES),
        ]
    ),
    "recurrent convolution in three dimensions": lambda: keras.Sequential(
        [
            keras.Input((3, 4, 3, 4, 2)),
            layers.ConvLSTM3D(2, 2, padding="same"),
            layers.Flatten(),
            layers.Dense(NUM_CLASSES),
        ]
    ),
    "layers at every step": lambda: _series(
        layers.TimeDistributed(layers.Dense(5, activation="tanh")), layers.LSTM(3)
    ),
}
WITHOUT_RULES = {"a loop": lambda: _series(Looped())}
CASES = {**WITH_RULES, **WITHOUT_RULES}


def make(name, dtype="float32", num_examples=5, seed=0):
    """A model, inputs and labels."""
    with floatx(dtype):
        model = CASES[name]()
        rng = np.random.default_rng(seed)
        if name == "subclassed":
            x = rng.normal(size=(num_examples, 9, 8, 4)).astype(dtype)
            model(x)
        elif "int" in model.inputs[0].dtype:  # tokens, with zeros where a sentence has ended
            ends = rng.integers(2, 8, size=(num_examples, 1))
            tokens = rng.integers(1, 11, size=(num_examples, 7))
            x = np.where(np.arange(7) < ends, tokens, 0).astype("int32")
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
